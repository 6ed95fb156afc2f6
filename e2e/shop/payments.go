package main

import (
	"encoding/json"
	"net/http"
)

func addPayments(mux *http.ServeMux) {
	mux.HandleFunc("POST /charge", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("authorization") == "" {
			http.Error(w, "who pays?", http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]string{"charged": r.FormValue("cents")})
	})
}
