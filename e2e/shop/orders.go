package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	_ "github.com/lib/pq"
)

const (
	databaseTries = 60
	databasePause = time.Second
	databaseIdle  = time.Second
	stockMessages = 3
)

func addOrders(ctx context.Context, mux *http.ServeMux) error {
	database, err := sql.Open("postgres", env("DATABASE_URL", "postgres://postgres@postgres:5432/postgres?sslmode=disable"))
	if err != nil {
		return err
	}
	// A connection that nobody uses ends soon, and with it its audit record.
	database.SetConnMaxIdleTime(databaseIdle)
	if err := prepare(ctx, database); err != nil {
		return err
	}
	payments := env("PAYMENTS_URL", "http://payments:8080")
	shelf, err := dialShelf(env("STOCK_ADDRESS", "stock:8080"))
	if err != nil {
		return err
	}
	mux.HandleFunc("POST /orders", func(w http.ResponseWriter, r *http.Request) {
		item := r.FormValue("item")
		if item == "" {
			http.Error(w, "no item", http.StatusUnprocessableEntity)
			return
		}
		authorization := r.Header.Get("authorization")
		if err := shelf.reserve(r.Context(), item, authorization); err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		if status := charge(r.Context(), payments, authorization); status != http.StatusOK {
			http.Error(w, "the payment was refused", status)
			return
		}
		var id int64
		insert := "INSERT INTO orders (item) VALUES ($1) RETURNING id"
		if err := database.QueryRowContext(r.Context(), insert, item).Scan(&id); err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"order": id, "item": item})
	})
	mux.HandleFunc("GET /orders/stock", func(w http.ResponseWriter, r *http.Request) {
		if err := shelf.watchOnce(r.Context(), r.FormValue("item"), stockMessages); err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	})
	return nil
}

// charge asks payments. It hands on who is asking, but, as many services do, not the trace.
func charge(ctx context.Context, payments, authorization string) int {
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, payments+"/charge", nil)
	if err != nil {
		return http.StatusInternalServerError
	}
	request.URL.RawQuery = url.Values{"cents": {"1200"}}.Encode()
	if authorization != "" {
		request.Header.Set("authorization", authorization)
	}
	response, err := client.Do(request)
	if err != nil {
		slog.Error("payments", "error", err)
		return http.StatusBadGateway
	}
	defer response.Body.Close()
	// Read to its end, so that the connection is used again.
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return http.StatusBadGateway
	}
	return response.StatusCode
}

// prepare waits for the database and makes the table.
func prepare(ctx context.Context, database *sql.DB) error {
	table := "CREATE TABLE IF NOT EXISTS orders (id bigserial PRIMARY KEY, item text NOT NULL, at timestamptz NOT NULL DEFAULT now())"
	var err error
	for range databaseTries {
		if _, err = database.ExecContext(ctx, table); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(databasePause):
		}
	}
	return err
}
