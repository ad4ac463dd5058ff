package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/config"
	"castellan.dev/internal/demo"
	"castellan.dev/internal/dev"
	"castellan.dev/internal/ledger"
	"castellan.dev/internal/servicedb"
	"castellan.dev/internal/state"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"castellan": main})
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// TestOffline runs the transcripts that need no installation.
func TestOffline(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/offline",
		Setup:               offline,
		Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "export": exportSmallLedger, "edit": edit, "pick": pick, "vault": vault},
		RequireUniqueNames:  true,
		RequireExplicitExec: true,
	})
}

// offline gives a transcript no installation, and puts its directory into its configuration files, whose
// paths must be absolute.
func offline(e *testscript.Env) error {
	e.Setenv("XDG_DATA_HOME", e.WorkDir)
	files, err := filepath.Glob(filepath.Join(e.WorkDir, "*.yaml"))
	for _, file := range files {
		text, readErr := os.ReadFile(file)
		err = errors.Join(err, readErr, os.WriteFile(file, bytes.ReplaceAll(text, []byte("$WORK"), []byte(e.WorkDir)), 0o600))
	}
	return err
}

// vault answers as Vault's transit engine does to what wraps keys, for the rest of the transcript, and
// writes vault.yaml, which has it wrap the codec's keyring.
func vault(ts *testscript.TestScript, _ bool, _ []string) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/transit/encrypt/castellan" || r.Header.Get("X-Vault-Token") != "a-token" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprintf(w, `{"data":{"ciphertext":"vault:v1:%s"}}`, rand.Text())
	}))
	ts.Defer(server.Close)
	ts.Check(os.WriteFile(ts.MkAbs("token"), []byte("a-token\n"), 0o600))
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	ts.Check(os.WriteFile(ts.MkAbs("vault.pem"), root, 0o600))
	text := fmt.Sprintf("codec:\n  keyringFile: %s\n  vault: {address: %q, key: castellan, tokenFile: %s, caFile: %s}\n",
		ts.MkAbs("wrapped.keyring"), server.URL, ts.MkAbs("token"), ts.MkAbs("vault.pem"))
	ts.Check(os.WriteFile(ts.MkAbs("vault.yaml"), []byte(text), 0o600))
}

// exits runs a command and checks its exit code: exits CODE COMMAND...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var failed *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &failed) {
		got = failed.ExitCode()
	} else if err != nil {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%q exited with %d, want %d", args[1:], got, want)
	}
}

// exportSmallLedger makes a ledger with a few records and writes export.jsonl, proof.json and ledger.pub;
// its checkpoints are in the directory checkpoints.
func exportSmallLedger(ts *testscript.TestScript, _ bool, _ []string) {
	ctx := context.Background()
	database, err := servicedb.Open(ctx, servicedb.Config{Kind: servicedb.KindSQLite, Path: ts.MkAbs("service.db")})
	ts.Check(err)
	defer database.Close()
	place, err := ledger.NewDirectory(ts.MkAbs("checkpoints"))
	ts.Check(err)
	log, err := ledger.Open(ctx, database, ledger.Options{KeyFile: ts.MkAbs("ledger.key"), Place: place, Interval: -1, Log: quiet()})
	ts.Check(err)
	recorder, id := log.As("privileged"), ""
	for _, step := range []string{"rotate.mint", "rotate.set", "rotate.publish"} {
		for _, phase := range []record.Phase{record.Intent, record.Outcome} {
			id, err = recorder.Append(ctx, record.Entry{
				Workflow: "rotate/payments", Run: "run-1", Step: step, Target: "payments", Rotation: "payments@1", Epoch: 1, Phase: phase,
				Result: "ok", At: time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC), Facts: map[string]string{"fingerprint": "aabbcc"},
			})
			ts.Check(err)
		}
	}
	var export, proof bytes.Buffer
	ts.Check(log.Export(ctx, &export, ledger.Range{}))
	ts.Check(log.Prove(ctx, &proof, id))
	ts.Check(log.Close(ctx))
	header, _, _ := strings.Cut(export.String(), "\n")
	_, rest, _ := strings.Cut(header, `"key":"`)
	key, _, _ := strings.Cut(rest, `"`)
	for name, text := range map[string]string{"export.jsonl": export.String(), "proof.json": proof.String(), "ledger.pub": key + "\n"} {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o600))
	}
}

// edit replaces text in a file: edit FILE COPY OLD NEW. It fails when there is nothing to replace.
func edit(ts *testscript.TestScript, _ bool, args []string) {
	content := ts.ReadFile(args[0])
	if !strings.Contains(content, args[2]) {
		ts.Fatalf("%s does not contain %q", args[0], args[2])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.Replace(content, args[2], args[3], 1)), 0o600))
}

// TestWithCastellanDev runs the transcripts that talk to a castellan-dev. They share one; each uses
// certificates of its own.
func TestWithCastellanDev(t *testing.T) {
	dir, stop := start(t)
	scripts := func(from string) func(t *testing.T) {
		return func(t *testing.T) {
			testscript.Run(t, testscript.Params{
				Dir: from,
				Setup: func(e *testscript.Env) error {
					e.Setenv("XDG_DATA_HOME", filepath.Dir(string(dir)))
					e.Setenv("DEV", string(dir))
					return nil
				},
				Cmds:                map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "until": until, "pick": pick},
				RequireUniqueNames:  true,
				RequireExplicitExec: true,
			})
		}
	}
	t.Run("running", scripts("testdata/dev"))
	stop()
	t.Run("stopped", scripts("testdata/stopped"))
}

// pick sets a variable to the first match of a pattern's group in a file: pick VARIABLE FILE PATTERN.
func pick(ts *testscript.TestScript, _ bool, args []string) {
	found := regexp.MustCompile(args[2]).FindStringSubmatch(ts.ReadFile(args[1]))
	if len(found) != 2 {
		ts.Fatalf("%s does not match %q", args[1], args[2])
	}
	ts.Setenv(args[0], found[1])
}

// until repeats a command until its standard output contains the text: until TEXT COMMAND...
func until(ts *testscript.TestScript, _ bool, args []string) {
	deadline := time.Now().Add(time.Minute)
	for {
		err := ts.Exec(args[1], args[2:]...)
		if strings.Contains(ts.ReadFile("stdout"), args[0]) {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%q never said %q: %v", args[1:], args[0], err)
		}
		time.Sleep(100 * time.Millisecond) // between two looks
	}
}

// certificates of the castellan-dev under test. Down ones have a consumer that nobody serves, so that
// they wait after the publication; observed ones are adopted.
var certificates = []struct {
	name     string
	down     bool
	observed bool
}{
	{name: "payments"}, {name: "orders"}, {name: "watched"}, {name: "steered", down: true}, {name: "lost", down: true}, {name: "adopted", observed: true},
}

// start runs a castellan-dev until it is stopped, at the latest by the end of the test, and returns its
// state directory, the default one of the directory above it.
func start(t *testing.T) (dir state.Dir, stop func()) {
	t.Helper()
	top := t.TempDir()
	dir = state.Dir(filepath.Join(top, "castellan"))
	if err := dir.Make(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir.Config(), []byte(configuration(t, top)), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, problems := config.Load(dir.Config())
	if problems != nil {
		t.Fatal(problems)
	}
	ctx, cancel := context.WithCancel(context.Background())
	process, err := dev.Start(ctx, dev.Options{State: dir, Config: cfg, Zones: activities.Zones(), Now: time.Now, Logger: quiet()})
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		if err := process.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	stop = func() { cancel(); running.Wait() }
	t.Cleanup(stop)
	return dir, stop
}

func configuration(t *testing.T, top string) string {
	t.Helper()
	var text strings.Builder
	text.WriteString("issuers:\n  internal: {kind: embedded}\ncertificates:\n")
	for _, c := range certificates {
		served := filepath.Join(top, c.name)
		if err := os.MkdirAll(served, 0o755); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "  %s:\n    issuer: internal\n    observe: %t\n    dnsNames: [localhost]\n    lifetime: 1h\n    canaryGrace: 1s\n", c.name, c.observed)
		fmt.Fprintf(&text, "    deliveries: [{name: files, kind: files, directory: %s}]\n", served)
		fmt.Fprintf(&text, "    consumers: [{name: %s, kind: tls, addresses: [%q], serverName: localhost}]\n", c.name, address(t, c.name, served, c.down))
	}
	return text.String()
}

// address serves the certificate, or only takes an address that nobody will serve.
func address(t *testing.T, name, served string, down bool) string {
	t.Helper()
	if down {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close() })
		go func() { // refuse by closing, so that the port stays ours
			for {
				connection, err := listener.Accept()
				if err != nil {
					return
				}
				connection.Close()
			}
		}()
		return listener.Addr().String()
	}
	service, err := demo.NewService(demo.ServiceConfig{Name: name, Listen: "127.0.0.1:0", Pair: filepath.Join(served, "current"), Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go service.Run(ctx)
	return service.Address()
}
