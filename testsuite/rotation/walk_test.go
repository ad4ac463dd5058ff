// Package rotation tests the rotation of certificates end to end, on a whole castellan-dev: embedded
// Temporal, embedded CA, encrypted store, ledger, file deliveries, and real TLS servers.
package rotation

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/internal/config"
	"castellan.dev/internal/demo"
	"castellan.dev/internal/dev"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/state"
)

func logger(t *testing.T) *slog.Logger {
	if testing.Verbose() {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	return slog.New(slog.NewTextHandler(io.Discard, nil))
}

func TestWalk(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	served := filepath.Join(dir, "served")
	if err := os.MkdirAll(served, 0o755); err != nil {
		t.Fatal(err)
	}
	service, err := demo.NewService(demo.ServiceConfig{Name: "payments", Listen: "127.0.0.1:0", Pair: filepath.Join(served, "current"), Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	go service.Run(ctx)
	path := filepath.Join(dir, "castellan.yaml")
	text := fmt.Sprintf(`
issuers:
  internal: {kind: embedded}
certificates:
  payments:
    issuer: internal
    dnsNames: [localhost]
    ipAddresses: [127.0.0.1]
    lifetime: 1h
    deliveries:
      - {name: files, kind: files, directory: %s, state: %s}
    consumers:
      - {name: payments, kind: tls, addresses: ["%s"], serverName: localhost}
`, served, filepath.Join(dir, "delivery"), service.Address())
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, problems := config.Load(path)
	if problems != nil {
		t.Fatal(problems)
	}
	process, err := dev.Start(ctx, dev.Options{State: state.Dir(filepath.Join(dir, "state")), Config: cfg, Zones: activities.Zones(), Now: time.Now, Logger: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	running, stop := context.WithCancel(ctx)
	go func() { done <- process.Run(running) }()
	defer func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	operator, err := identity.NewSource(ctx, identity.SourceConfig{Name: identity.Operator, Files: identity.FilesIn(filepath.Join(dir, "state", "identity"), identity.Operator)})
	if err != nil {
		t.Fatal(err)
	}
	client := api.NewClient(process.Endpoints().API, &http.Client{Transport: &http.Transport{TLSClientConfig: operator.TLSClient(identity.Serve)}})
	for round := range 2 {
		started, err := client.Rotate(ctx, "payments", api.RotateRequest{Reason: "walk"})
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		var live api.Live
		for live.Result == nil {
			if live, err = client.Live(ctx, "payments", started.Run); err != nil {
				t.Fatal(err)
			}
			if live.Error != "" {
				t.Fatal(live.Error)
			}
			time.Sleep(20 * time.Millisecond)
		}
		t.Logf("round %d: %s in %s: %s", round, live.Result.State, time.Since(begun), live.Result.Sentence)
		if live.Result.State != activities.Retired {
			t.Fatalf("got %+v", live.Result)
		}
		connection, err := tls.Dial("tcp", service.Address(), &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		connection.Close()
	}
	shown, err := client.Certificate(ctx, "payments")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", shown)
}
