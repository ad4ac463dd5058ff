package rescue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/rotate"
	"castellan.dev/internal/api"
	"castellan.dev/internal/config"
	"castellan.dev/internal/demo"
	"castellan.dev/internal/dev"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/installation"
	"castellan.dev/internal/ledger"
	"castellan.dev/internal/state"
)

// scene is a castellan-dev with two certificates: payments is read at once, slow only when its service
// starts.
type scene struct {
	dir      string
	services map[string]*demo.Service
	client   *api.Client
	stop     func()
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{dir: t.TempDir(), services: map[string]*demo.Service{}}
	var text strings.Builder
	text.WriteString("issuers:\n  internal: {kind: embedded}\ncertificates:\n")
	for name, lag := range map[string]time.Duration{"payments": 0, "slow": time.Hour} {
		served := filepath.Join(s.dir, name)
		if err := os.MkdirAll(served, 0o755); err != nil {
			t.Fatal(err)
		}
		service, err := demo.NewService(demo.ServiceConfig{Name: name, Listen: "127.0.0.1:0", Pair: filepath.Join(served, "current"), Lag: lag, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		s.services[name] = service
		go service.Run(t.Context())
		fmt.Fprintf(&text, "  %s:\n    issuer: internal\n    dnsNames: [localhost]\n    lifetime: 1h\n", name)
		fmt.Fprintf(&text, "    deliveries: [{name: files, kind: files, directory: %s}]\n", served)
		fmt.Fprintf(&text, "    consumers: [{name: %s, kind: tls, addresses: [%q], serverName: localhost}]\n", name, service.Address())
	}
	if err := s.state().Make(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.state().Config(), []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	s.start(t)
	return s
}

func (s *scene) state() state.Dir { return state.Dir(filepath.Join(s.dir, "state")) }

func (s *scene) start(t *testing.T) {
	t.Helper()
	cfg, problems := config.Load(s.state().Config())
	if problems != nil {
		t.Fatal(problems)
	}
	ctx, cancel := context.WithCancel(context.Background())
	process, err := dev.Start(ctx, dev.Options{State: s.state(), Config: cfg, Zones: activities.Zones(), Now: time.Now, Logger: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- process.Run(ctx) }()
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(s.stop)
	operator, err := identity.NewSource(ctx, identity.SourceConfig{Name: identity.Operator, Files: identity.FilesIn(s.state().Identity(), identity.Operator)})
	if err != nil {
		t.Fatal(err)
	}
	s.client = api.NewClient(process.Endpoints().API, &http.Client{Transport: &http.Transport{TLSClientConfig: operator.TLSClient(identity.Serve)}})
}

// rotate rotates and waits for the end.
func (s *scene) rotate(t *testing.T, name string, until, want activities.State) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	started, err := s.client.Rotate(ctx, name, api.RotateRequest{Reason: "test", Until: until})
	if err != nil {
		t.Fatal(err)
	}
	for {
		live, err := s.client.Live(ctx, name, started.Run)
		if err != nil {
			t.Fatal(err)
		}
		if live.Result != nil {
			if live.Result.State != want {
				t.Fatalf("got %s, want %s: %s", live.Result.State, want, live.Result.Sentence)
			}
			return live.Result.Fingerprint
		}
		if live.Error != "" {
			t.Fatal(live.Error)
		}
		time.Sleep(50 * time.Millisecond) // between two looks
	}
}

// serves returns the fingerprint that a service shows.
func (s *scene) serves(t *testing.T, name string) string {
	t.Helper()
	connection, err := tls.Dial("tcp", s.services[name].Address(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	sum := sha256.Sum256(connection.ConnectionState().PeerCertificates[0].Raw)
	return hex.EncodeToString(sum[:])
}

func (s *scene) open(t *testing.T, options Options) (*Rescue, error) {
	t.Helper()
	i, err := installation.Open("", s.state(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	options.Actor, options.Reason = "rescue:test", "the engine is gone"
	r, err := Open(t.Context(), i, options)
	if r != nil {
		t.Cleanup(func() { r.Close() })
	}
	return r, err
}

// with opens a rescue, uses it and closes it.
func (s *scene) with(t *testing.T, options Options, use func(*Rescue)) {
	t.Helper()
	r, err := s.open(t, options)
	if err != nil {
		t.Fatal(err)
	}
	use(r)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestRescue(t *testing.T) {
	s := newScene(t)
	before := map[string]string{}
	candidates := map[string]string{}
	for _, name := range []string{"payments", "slow"} {
		before[name] = s.rotate(t, name, "", activities.Retired)
		candidates[name] = s.rotate(t, name, activities.Tested, activities.Tested)
	}
	if _, err := s.open(t, Options{Target: "payments"}); activities.KindOf(err) != activities.Conflict {
		t.Fatalf("with castellan running: got %v, want a conflict", err)
	}
	s.stop()

	t.Run("a dry run says what is true and changes nothing", func(t *testing.T) {
		s.with(t, Options{Target: "payments", Dry: true}, func(r *Rescue) {
			got, err := r.Look(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !got.Open || got.State != activities.Tested || got.Candidate.Fingerprint != candidates["payments"] || got.Delivered["files"] != before["payments"] {
				t.Errorf("got %+v", got)
			}
			if len(got.Consumers) != 1 || got.Consumers[0].Standing != activities.UsesPrevious {
				t.Errorf("got consumers %+v, want one that uses the previous", got.Consumers)
			}
			if len(got.Forward) != 3 || len(got.Rollback) != 1 {
				t.Errorf("got forward %q, back %q", got.Forward, got.Rollback)
			}
		})
		if got := s.serves(t, "payments"); got != before["payments"] {
			t.Errorf("it serves %s, want still %s", got, before["payments"])
		}
	})
	t.Run("forward finishes with the candidate that was there", func(t *testing.T) {
		s.with(t, Options{Target: "payments", Patience: time.Minute}, func(r *Rescue) {
			got, err := r.Forward(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got.State != activities.Retired || got.Fingerprint != candidates["payments"] || !got.Acted {
				t.Errorf("got %+v", got)
			}
		})
		if got := s.serves(t, "payments"); got != candidates["payments"] {
			t.Errorf("it serves %s, want the candidate %s", got, candidates["payments"])
		}
	})
	t.Run("a second rescue has nothing to do", func(t *testing.T) {
		for what, end := range map[string]func(*Rescue, context.Context) (Outcome, error){"forward": (*Rescue).Forward, "back": (*Rescue).Rollback} {
			s.with(t, Options{Target: "payments", Patience: time.Minute}, func(r *Rescue) {
				got, err := end(r, t.Context())
				if err != nil || got.Acted || got.State != activities.Retired {
					t.Errorf("%s: got %+v, %v", what, got, err)
				}
			})
		}
		if got := s.serves(t, "payments"); got != candidates["payments"] {
			t.Errorf("it serves %s, want the candidate %s", got, candidates["payments"])
		}
	})
	t.Run("a straggler keeps the previous from being retired", func(t *testing.T) {
		s.with(t, Options{Target: "slow", Patience: time.Second}, func(r *Rescue) {
			got, err := r.Forward(t.Context())
			if activities.KindOf(err) != activities.Failed || len(got.Stragglers) != 1 || got.State != activities.Published {
				t.Errorf("got %+v, %v, want one straggler", got, err)
			}
		})
	})
	t.Run("a rollback puts the previous back under a newer fence", func(t *testing.T) {
		s.with(t, Options{Target: "slow", Patience: time.Minute}, func(r *Rescue) {
			got, err := r.Rollback(t.Context())
			if err != nil || got.State != activities.RolledBack {
				t.Errorf("got %+v, %v", got, err)
			}
			head, err := r.steps.Head(t.Context(), "slow")
			if err != nil || head.Epoch != head.Of+1 {
				t.Errorf("got fence %d for epoch %d, %v", head.Epoch, head.Of, err)
			}
		})
		pair := s.visible(t, "slow")
		if pair != before["slow"] {
			t.Errorf("visible is %s, want the previous %s", pair, before["slow"])
		}
	})
	t.Run("the evidence is whole and names rescue", func(t *testing.T) { s.checkEvidence(t) })
	t.Run("castellan goes on afterwards", func(t *testing.T) {
		s.start(t)
		record, err := s.client.Rotation(t.Context(), "payments@2")
		if err != nil || record.State != activities.Retired {
			t.Errorf("got %+v, %v", record, err)
		}
		s.rotate(t, "payments", "", activities.Retired)
	})
}

// visible returns the fingerprint that the delivery of a target shows.
func (s *scene) visible(t *testing.T, name string) string {
	t.Helper()
	var found string
	s.with(t, Options{Target: name, Dry: true}, func(r *Rescue) {
		look, err := r.Look(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		found = look.Delivered["files"]
	})
	return found
}

func (s *scene) checkEvidence(t *testing.T) {
	t.Helper()
	i, err := installation.Open("", s.state(), quiet())
	if err != nil {
		t.Fatal(err)
	}
	database, err := i.Database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer database.Close()
	var export bytes.Buffer
	if err := ledger.Read(database).Export(t.Context(), &export, ledger.Range{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"rescue/payments"`, `"rescue/slow"`, `"rescue:test"`} {
		if !strings.Contains(export.String(), want) {
			t.Errorf("the evidence does not mention %s", want)
		}
	}
	report, err := ledger.Verify(&export, ledger.VerifyOptions{})
	if err != nil || !report.OK() {
		t.Errorf("got %+v, %v, want intact evidence", report.Problems, err)
	}
}

func TestPassing(t *testing.T) {
	for kind, want := range map[activities.Kind]bool{
		activities.Transient: true, activities.Throttled: true, activities.Uncertain: true,
		activities.Denied: false, activities.Invalid: false, activities.Fenced: false, activities.Failed: false, activities.Conflict: false,
	} {
		if got := passing(kind); got != want {
			t.Errorf("passing(%s): got %v, want %v", kind, got, want)
		}
	}
}

func TestARollbackThatHasBegunCannotGoForward(t *testing.T) {
	r := &Rescue{target: rotate.Target{Name: "payments"}}
	head := rotate.Head{Epoch: 3, Of: 2, Rotation: "payments@2", State: activities.Published}
	if got := r.forwardSteps(head); got != nil {
		t.Errorf("got %q, want no step", got)
	}
}
