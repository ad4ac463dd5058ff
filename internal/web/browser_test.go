package web_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
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

// castle is a whole castellan-dev with a certificate that converges and one that never does.
type castle struct {
	process  *dev.Process
	operator *api.Client
	setup    string
	metrics  string
	state    string
}

func startCastle(t *testing.T) *castle {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	served := filepath.Join(dir, "served")
	if err := os.MkdirAll(served, 0o755); err != nil {
		t.Fatal(err)
	}
	service, err := demo.NewService(demo.ServiceConfig{Name: "payments", Listen: "127.0.0.1:0", Pair: filepath.Join(served, "current"), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	go service.Run(ctx)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	path := filepath.Join(dir, "castellan.yaml")
	text := fmt.Sprintf(`
telemetry: {metrics: {listen: "127.0.0.1:0"}}
issuers:
  internal: {kind: embedded}
certificates:
  payments:
    issuer: internal
    owner: team payments
    dnsNames: [localhost]
    ipAddresses: [127.0.0.1]
    lifetime: 1h
    deliveries:
      - {name: files, kind: files, directory: %s, state: %s}
    consumers:
      - {name: payments, kind: tls, addresses: ["%s"], serverName: localhost}
  orders:
    issuer: internal
    owner: team orders
    dnsNames: [localhost]
    lifetime: 1h
    canaryGrace: 1h
    deliveries:
      - {name: files, kind: files, directory: %s, state: %s}
    consumers:
      - {name: orders, kind: tls, addresses: ["%s"], serverName: localhost}
`, served, filepath.Join(dir, "delivery"), service.Address(), filepath.Join(dir, "served2"), filepath.Join(dir, "delivery2"), silent.Addr())
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, problems := config.Load(path)
	if problems != nil {
		t.Fatal(problems)
	}
	c := &castle{state: filepath.Join(dir, "state")}
	c.process, err = dev.Start(ctx, dev.Options{State: state.Dir(c.state), Config: cfg, Zones: activities.Zones(), Now: time.Now, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.process.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	var welcome bytes.Buffer
	c.process.Welcome(&welcome)
	c.setup = regexp.MustCompile(`http://\S+/setup\?token=\S+`).FindString(welcome.String())
	c.metrics = regexp.MustCompile(`http://\S+/metrics`).FindString(welcome.String())
	if c.setup == "" || c.metrics == "" {
		t.Fatalf("no setup link, or no metrics, in\n%s", &welcome)
	}
	operator, err := identity.NewSource(ctx, identity.SourceConfig{Name: identity.Operator, Files: identity.FilesIn(filepath.Join(c.state, "identity"), identity.Operator)})
	if err != nil {
		t.Fatal(err)
	}
	c.operator = api.NewClient(c.process.Endpoints().API, &http.Client{Transport: &http.Transport{TLSClientConfig: operator.TLSClient(identity.Serve)}})
	return c
}

// rotate starts a rotation and waits until it is in a state.
func (c *castle) rotate(t *testing.T, target string, want activities.State) {
	t.Helper()
	started, err := c.operator.Rotate(t.Context(), target, api.RotateRequest{Reason: "browser test"})
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(90 * time.Second)
	for {
		live, err := c.operator.Live(t.Context(), target, started.Run)
		if err != nil {
			t.Fatal(err)
		}
		if live.State.State == want && (want != activities.Published || len(live.Stragglers) > 0) {
			return
		}
		if live.Error != "" || live.Result != nil || time.Now().After(deadline) {
			t.Fatalf("rotation of %s: got %+v", target, live)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// TestBrowser walks through the page as a person does, with a real browser and a real castellan-dev.
func TestBrowser(t *testing.T) {
	if testing.Short() {
		t.Skip("starts castellan-dev and a browser")
	}
	c := startCastle(t)
	b := openChromium(t)
	web := c.process.Endpoints().Web

	b.open(web + "/")
	b.await("Sign in", "no user yet")
	b.picture("login")
	b.open(c.setup)
	b.await("First user")
	b.picture("setup")
	b.fill(map[string]string{"user": "ada", "password": password, "repeat": password})
	b.await("Certificates", "payments", "not rotated yet")
	b.picture("empty")

	c.rotate(t, "payments", activities.Retired)
	b.await("payments@1", "retired") // without a reload: the page refreshes itself
	c.rotate(t, "orders", activities.Published)
	b.await("orders@1", "Waiting for", "Stragglers")
	b.picture("overview")
	b.open(web + "/rotations/orders@1")
	b.await("orders@1", "Candidate", "published")
	b.picture("rotation")
	b.open(web + "/certificates/payments")
	b.await("payments", "Fingerprint", "payments@1", "candidate")
	b.picture("certificate")

	if got := b.run("document.cookie"); got != "" {
		t.Errorf("a script can read the session: %d bytes", len(got))
	}
	b.open(c.setup)
	b.await("used up")
	b.open(web + "/")
	b.await("Certificates")
	b.run("document.querySelector('header form button').click()")
	b.await("Password")
	b.open(web + "/rotations/payments@1")
	b.await("Password")
	b.fill(map[string]string{"user": "ada", "password": password})
	b.await("payments@1", "retired")

	b.open(web + "/temporal/")
	b.await("rotate/payments")
	b.picture("temporal")
	b.open(web + "/temporal/namespaces/" + c.process.Endpoints().Namespace + "/workflows/rotate%2Fpayments")
	b.await("rotate/payments", "browser test") // the reason is encrypted in the history
	b.picture("workflow")
	if decoded := c.decodings(t); decoded == 0 {
		t.Error("the Web UI opened payloads, and nobody recorded it")
	}
	c.tells(t)
}

// tells checks that the process serves metrics of every source.
func (c *castle) tells(t *testing.T) {
	t.Helper()
	response, err := http.Get(c.metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`castellan_certificate_expiry_seconds{target="payments"} 3`, `castellan_rotations_ended{outcome="RETIRED"} 1`,
		"castellan_consumers_unverified 1", `castellan_schedule_lateness_seconds{schedule="castellan/sweep"} 0`,
		"castellan_schedule_watchdog_heartbeat_timestamp_seconds 1", "temporal_request_total",
	} {
		if !strings.Contains(string(text), "\n"+want) {
			t.Errorf("metrics lack %q", want)
		}
	}
	if t.Failed() {
		t.Logf("%s", text)
	}
}

// decodings counts the records of payloads that were opened.
func (c *castle) decodings(t *testing.T) int {
	t.Helper()
	export, err := c.operator.Evidence(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer export.Close()
	text, err := io.ReadAll(export)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(text), "web.decode/")
}
