// Command shop is the demo's application: four small services in one program, chosen by the first argument.
//
//	frontend  POST /buy, GET /events (server-sent events), GET /ws (WebSocket echo): calls orders
//	orders    POST /orders: calls stock and payments, writes to PostgreSQL; does not pass the trace on
//	payments  POST /charge
//	stock     gRPC shop.Stock: Reserve, and Watch, which streams
package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

const (
	requestTimeout  = 10 * time.Second
	shutdownTimeout = 5 * time.Second
	headerTimeout   = 5 * time.Second
)

func main() {
	if err := run(); err != nil {
		slog.Error("shop", "error", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return errors.New("usage: shop frontend|orders|payments|stock")
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	address := ":" + env("PORT", "8080")
	if os.Args[1] == "stock" {
		slog.Info("listening", "service", "stock", "address", address)
		return serveStock(ctx, address)
	}
	handler, err := service(ctx, os.Args[1])
	if err != nil {
		return err
	}
	server := &http.Server{
		Addr:              address,
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
	}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	slog.Info("listening", "service", os.Args[1], "address", server.Addr)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	return server.Shutdown(ctx)
}

func service(ctx context.Context, name string) (http.Handler, error) {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	switch name {
	case "frontend":
		addFrontend(mux)
	case "orders":
		return mux, addOrders(ctx, mux)
	case "payments":
		addPayments(mux)
	default:
		return nil, fmt.Errorf("unknown service %q: frontend, orders, payments or stock", name)
	}
	return mux, nil
}

func env(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
