package dev

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"castellan.dev/internal/api"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/telemetry"
	"castellan.dev/internal/web"
	"castellan.dev/internal/webui"
)

// openTelemetry opens what the configuration wants told.
func (p *Process) openTelemetry(ctx context.Context) (err error) {
	p.telemetry, err = telemetry.New(ctx, p.options.Config.Telemetry, telemetry.Options{Service: "castellan-dev", Logger: p.options.Logger})
	if err != nil {
		return err
	}
	p.undo(func() {
		stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		p.note("close telemetry", p.telemetry.Close(stop))
	})
	return p.telemetry.Register(telemetry.Inventory(p.database, p.options.Now, p.options.Logger))
}

// openWeb makes the page for people. It reads the API and the engine as the identity "ui", which may
// only read.
func (p *Process) openWeb(context.Context) error {
	if err := p.telemetry.Register(p.service.Watchdog()); err != nil {
		return err
	}
	source := p.sources[identity.UI]
	ui, err := webui.New(webui.Config{Address: p.engine.Address(), Namespace: p.engine.Namespace(), TLS: source.TLSClient(identity.Engine)})
	if err != nil {
		return err
	}
	p.undo(func() { p.note("close web UI", ui.Close()) })
	transport := &http.Transport{TLSClientConfig: source.TLSClient(identity.Serve), ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute}
	p.undo(transport.CloseIdleConnections)
	login := p.options.Config.API.Login
	p.site, err = web.New(web.Parts{
		Address: p.web.Addr().String(), Namespace: p.engine.Namespace(),
		Users: cmp.Or(login.UsersFile, p.options.State.Users()), Session: login.Session,
		API:      api.NewClient(p.Endpoints().API, &http.Client{Timeout: 30 * time.Second, Transport: transport}),
		Temporal: ui, Codec: p.codec, Recorder: p.ledger.As(identity.UI), Now: p.options.Now, Logger: p.options.Logger,
	})
	return err
}

// serveWeb serves the page for people until the context ends.
func (p *Process) serveWeb(ctx context.Context) error {
	server := &http.Server{
		Handler: p.site.Handler(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(p.options.Logger.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(p.web); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
