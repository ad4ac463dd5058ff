package bench

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"castellan.dev/activities"
	"castellan.dev/internal/config"
	"castellan.dev/internal/dev"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/state"
	"castellan.dev/workers"
)

// house is a castellan-dev in this process with some targets, each a TLS server that reloads by itself.
type house struct {
	state   state.Dir
	targets []string
	client  client.Client
}

// openHouse starts castellan-dev as its binary would.
func openHouse(t testing.TB, targets int) *house {
	t.Helper()
	dir := t.TempDir()
	h := &house{state: state.Dir(filepath.Join(dir, "state"))}
	path := h.configure(t, dir, targets)
	cfg, problems := config.Load(path)
	if cfg != nil {
		problems = append(problems, cfg.Check(workers.Catalogue())...)
	}
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	process, err := dev.Start(ctx, dev.Options{
		State: h.state, Config: cfg, Zones: activities.Zones(), Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		stop()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- process.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("castellan-dev: %v", err)
		}
	})
	endpoints := process.Endpoints()
	source, err := identity.NewSource(t.Context(), identity.SourceConfig{Name: identity.Dev, Files: identity.FilesIn(h.state.Identity(), identity.Dev)})
	if err != nil {
		t.Fatal(err)
	}
	options := client.Options{
		HostPort: endpoints.Engine, Namespace: endpoints.Namespace, Logger: slog.New(slog.DiscardHandler),
		ConnectionOptions: client.ConnectionOptions{TLS: source.TLSClient(identity.Engine)},
	}
	seal(t, &options, h.state.CodecKeys())
	h.client = dial(t, options)
	return h
}

// configure writes a configuration whose schedule does not fire while we measure.
func (h *house) configure(t testing.TB, dir string, targets int) string {
	t.Helper()
	text := "issuers:\n  internal: {kind: embedded}\nschedules:\n  sweep: {every: 8760h}\ncertificates:\n"
	for i := range targets {
		name := fmt.Sprintf("service-%d", i)
		served, memory := filepath.Join(dir, "served", name), filepath.Join(dir, "memory", name)
		for _, made := range []string{served, filepath.Dir(memory)} {
			if err := os.MkdirAll(made, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		text += fmt.Sprintf(`  %s:
    issuer: internal
    dnsNames: [localhost]
    ipAddresses: [127.0.0.1]
    lifetime: 1h
    deliveries:
      - {name: files, kind: files, directory: %s, state: %s}
    consumers:
      - {name: server, kind: tls, addresses: ["%s"], serverName: localhost, timeout: 5s}
`, name, served, memory, serve(t, served))
		h.targets = append(h.targets, name)
	}
	path := filepath.Join(dir, "castellan.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// serve runs a TLS server that loads the served generation when it changes, greets with one byte, and
// returns its address.
func serve(t testing.TB, served string) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	var mu sync.Mutex
	var from string
	var pair tls.Certificate
	load := func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		generation, err := filepath.EvalSymlinks(filepath.Join(served, "current"))
		if err != nil {
			return nil, err
		}
		mu.Lock()
		defer mu.Unlock()
		if generation != from {
			if pair, err = tls.LoadX509KeyPair(filepath.Join(generation, "tls.crt"), filepath.Join(generation, "tls.key")); err != nil {
				return nil, err
			}
			from = generation
		}
		shown := pair
		return &shown, nil
	}
	settings := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, GetCertificate: load}
	go func() {
		for {
			plain, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer plain.Close()
				_ = plain.SetDeadline(time.Now().Add(5 * time.Second))
				secured := tls.Server(plain, settings)
				if secured.HandshakeContext(context.Background()) == nil {
					_, _ = secured.Write([]byte("!"))
					_, _ = secured.Read(make([]byte, 1))
				}
			}()
		}
	}()
	return listener.Addr().String()
}
