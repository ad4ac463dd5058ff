package dev

import (
	"context"
	"errors"
	"net/http"
	"time"
)

// serveWeb serves the page for people until the context ends.
func (p *Process) serveWeb(ctx context.Context) error {
	server := &http.Server{Handler: http.NotFoundHandler(), ReadHeaderTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(p.web); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
