package rotation

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/internal/codec"
	"castellan.dev/internal/config"
	"castellan.dev/internal/dev"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/keyring"
	"castellan.dev/internal/state"
	"castellan.dev/workers"
)

// patience bounds a wait for a condition; it is generous because only a failing test spends it.
const patience = 90 * time.Second

// certificate is a target of a house, with the server that uses it.
type certificate struct {
	name   string
	server *server
	served string // directory of the delivery
	memory string // state directory of the delivery
	fields string // further lines of its configuration, indented by four
}

// house is a running castellan-dev with its targets and the clients of an operator.
type house struct {
	dir    string
	state  state.Dir
	caPort int
	log    *capture

	certificates map[string]*certificate
	config       strings.Builder // what is declared below certificates:

	endpoints state.Endpoints
	operator  *identity.Source
	api       *api.Client
	engine    client.Client // opens and seals payloads
	plain     client.Client // as any SDK without castellan's codec
	stop      func()
}

// newHouse prepares a house; declare its targets, then open it.
func newHouse(t testing.TB) *house {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	h := &house{
		dir: dir, state: state.Dir(filepath.Join(dir, "state")), log: new(capture), caPort: freePort(t),
		certificates: map[string]*certificate{},
	}
	return h
}

// freePort returns a port that was free a moment ago.
func freePort(t testing.TB) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

// serve declares a certificate that one server uses. Fields are further lines of its configuration.
func (h *house) serve(t testing.TB, name string, fields ...string) *certificate {
	t.Helper()
	c := h.place(t, name, fields...)
	c.server = newServer(t, c.served)
	fmt.Fprintf(&h.config, `    consumers:
      - {name: %s, kind: tls, addresses: ["%s"], serverName: localhost, timeout: 2s}
`, name, c.server.address())
	return c
}

// place declares a certificate and its delivery, without consumers.
func (h *house) place(t testing.TB, name string, fields ...string) *certificate {
	t.Helper()
	c := &certificate{name: name, served: filepath.Join(h.dir, "served", name), memory: filepath.Join(h.dir, "memory", name)}
	for _, dir := range []string{c.served, filepath.Dir(c.memory)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	fmt.Fprintf(&h.config, `  %s:
    issuer: internal
    dnsNames: [localhost]
    ipAddresses: [127.0.0.1]
    lifetime: 1h
    deliveries:
      - {name: files, kind: files, directory: %s, state: %s}
`, name, c.served, c.memory)
	for _, field := range fields {
		fmt.Fprintf(&h.config, "    %s\n", field)
	}
	h.certificates[name] = c
	return c
}

// policies of every house. The sweep fires by itself once in a year: tests trigger it.
const policies = `
issuers:
  internal: {kind: embedded}
schedules:
  sweep: {every: 8760h}
policies:
  default: {renewAt: 2/3, jitter: 0s}
  windowed:
    renewBefore: 59m59s
    jitter: 0s
    window: strict
    windows:
      - {days: [%s], start: "00:00", duration: 1h}
%s
certificates:
`

// exclusive is the policy of a group; the configuration's check wants it to have members.
const exclusive = "  exclusive: {renewBefore: 59m59s, jitter: 0s, group: coast, apart: 1s}"

// farDay is a day of the week that begins neither today nor tomorrow.
func farDay() string {
	return strings.ToLower(time.Now().UTC().Add(72 * time.Hour).Weekday().String()[:3])
}

// open starts castellan-dev over the declared targets.
func (h *house) open(t testing.TB, life time.Duration) {
	t.Helper()
	path := filepath.Join(h.dir, "castellan.yaml")
	group := ""
	if strings.Contains(h.config.String(), "policy: exclusive") {
		group = exclusive
	}
	if err := os.WriteFile(path, []byte(fmt.Sprintf(policies, farDay(), group)+h.config.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, problems := config.Load(path)
	if cfg != nil {
		problems = append(problems, cfg.Check(workers.Catalogue())...)
	}
	if err := problems.Err(); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	logger := slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	process, err := dev.Start(ctx, dev.Options{
		State: h.state, Config: cfg, Zones: activities.Zones(), Ports: dev.Ports{CA: h.caPort}, Now: time.Now, Logger: logger, Life: life,
	})
	if err != nil {
		stop()
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- process.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("castellan-dev: %v", err)
		}
	})
	t.Cleanup(h.stop)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("warnings of castellan-dev:\n%s", h.log.warnings())
		}
	})
	h.endpoints = process.Endpoints()
	h.connect(t)
}

// connect makes the clients of an operator.
func (h *house) connect(t testing.TB) {
	t.Helper()
	var err error
	h.operator, err = identity.NewSource(t.Context(), identity.SourceConfig{Name: identity.Operator, Files: h.files(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	h.api = api.NewClient(h.endpoints.API, &http.Client{Transport: &http.Transport{TLSClientConfig: h.operator.TLSClient(identity.Serve)}})
	options := client.Options{
		HostPort: h.endpoints.Engine, Namespace: h.endpoints.Namespace, Logger: slog.New(slog.DiscardHandler),
		ConnectionOptions: client.ConnectionOptions{TLS: h.operator.TLSClient(identity.Engine)},
	}
	if h.plain, err = client.DialContext(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.plain.Close)
	codec.Install(&options, h.codec(t))
	if h.engine, err = client.DialContext(t.Context(), options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.engine.Close)
}

func (h *house) files() identity.Files {
	return identity.FilesIn(h.state.Identity(), identity.Operator)
}

func (h *house) codec(t testing.TB) *codec.Codec {
	t.Helper()
	ring, err := keyring.Load(h.state.CodecKeys())
	if err != nil {
		t.Fatal(err)
	}
	opener, err := codec.New(ring, h.endpoints.Namespace)
	if err != nil {
		t.Fatal(err)
	}
	return opener
}

// rotate asks for a rotation and returns the workflow's run.
func (h *house) rotate(t testing.TB, target string, request api.RotateRequest) string {
	t.Helper()
	started, err := h.api.Rotate(t.Context(), target, request)
	if err != nil {
		t.Fatal(err)
	}
	if started.Running {
		t.Fatalf("a rotation of %q is under way already", target)
	}
	return started.Run
}

// until polls the live state of a target's run until the condition holds.
func (h *house) until(t testing.TB, target, run, what string, holds func(api.Live) bool) api.Live {
	t.Helper()
	var live api.Live
	eventually(t, target+": "+what, func() (string, bool) {
		var err error
		if live, err = h.api.Live(t.Context(), target, run); err != nil {
			return err.Error(), false
		}
		return fmt.Sprintf("%+v", live), holds(live)
	})
	return live
}

// end waits for a run's end and checks how it ended.
func (h *house) end(t testing.TB, target, run string, want activities.State) api.Live {
	t.Helper()
	live := h.until(t, target, run, "end", func(l api.Live) bool { return l.Result != nil || l.Status == "failed" })
	if live.Result == nil {
		t.Fatalf("%s: the run failed: %s", target, live.Error)
	}
	if live.Result.State != want {
		t.Fatalf("%s: got %s (%s), want %s", target, live.Result.State, live.Result.Sentence, want)
	}
	return live
}

// fresh rotates a target to its end, so that a previous certificate exists.
func (h *house) fresh(t testing.TB, target string) api.Live {
	t.Helper()
	return h.end(t, target, h.rotate(t, target, api.RotateRequest{Reason: "test"}), activities.Retired)
}

// eventually polls until the condition holds; the last picture is shown when it never does.
func eventually(t testing.TB, what string, look func() (picture string, holds bool)) {
	t.Helper()
	last := ""
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		var holds bool
		if last, holds = look(); holds {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("waited in vain for %s; last seen: %s", what, last)
}

// capture keeps everything that was logged.
type capture struct {
	mu   sync.Mutex
	text strings.Builder
}

var _ io.Writer = (*capture)(nil)

func (c *capture) Write(line []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.Write(line)
}

func (c *capture) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text.String()
}

func (c *capture) warnings() string {
	var lines []string
	for line := range strings.Lines(c.String()) {
		if strings.Contains(line, "level=WARN") || strings.Contains(line, "level=ERROR") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines[max(0, len(lines)-30):], "")
}
