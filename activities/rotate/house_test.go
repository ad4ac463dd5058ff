package rotate_test

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
	"castellan.dev/activities/deliver/files"
	"castellan.dev/activities/issue/stepca"
	"castellan.dev/activities/record"
	"castellan.dev/activities/rotate"
	"castellan.dev/activities/rotate/tlscert"
	"castellan.dev/activities/store/file"
	"castellan.dev/internal/ca"
	"castellan.dev/internal/keyring"
)

// issuerConfig says how the one authority of this package's tests is reached.
var issuerConfig stepca.Config

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "rotate-ca")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		authority, err := ca.Start(context.Background(), ca.Config{Dir: dir, Listen: "127.0.0.1:0", Log: slog.New(slog.DiscardHandler)})
		if err != nil {
			panic(err)
		}
		defer authority.Stop(context.Background())
		issuerConfig = stepca.Config{
			URL: authority.URL(), Root: authority.RootFile(), Provisioner: authority.Provisioner(), PasswordFile: authority.PasswordFile(),
		}
		return m.Run()
	}())
}

// ledger is a recorder in memory with the contract's idempotence, and a knob.
type ledger struct {
	mu      sync.Mutex
	entries []record.Entry
	ids     map[string]string
	refuse  func(record.Entry) bool // the append's reply is lost before it is durable
}

func (l *ledger) Append(_ context.Context, e record.Entry) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refuse != nil && l.refuse(e) {
		return "", activities.Errorf(activities.Transient, "append evidence: connection refused")
	}
	key := fmt.Sprintf("%s|%s|%d|%s", e.Workflow, e.Step, e.Epoch, e.Phase)
	if id, ok := l.ids[key]; ok {
		return id, nil
	}
	l.ids[key] = fmt.Sprintf("record-%d", len(l.entries))
	l.entries = append(l.entries, e)
	return l.ids[key], nil
}

// find returns the entries of a step in a phase.
func (l *ledger) find(step string, phase record.Phase) []record.Entry {
	var found []record.Entry
	for _, e := range l.entries {
		if e.Step == step && e.Phase == phase {
			found = append(found, e)
		}
	}
	return found
}

// house is one target with two file deliveries, a real store and a real issuer.
type house struct {
	t       *testing.T
	dir     string
	clock   time.Duration // how far the house's clock is ahead
	cert    tlscert.Certificate
	target  rotate.Target
	steps   *rotate.Steps
	store   *file.Store
	ledger  *ledger
	verdict activities.Verdict

	declines string           // a target that is not due
	saw      rotate.Situation // what the last decision was made from
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, dir: t.TempDir(), ledger: &ledger{ids: map[string]string{}}, verdict: activities.Verdict{Due: true, Reason: "test", Sentence: "is due"}}
	keys := filepath.Join(h.dir, "keys")
	if err := keyring.Create(keys); err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.Load(keys)
	if err != nil {
		t.Fatal(err)
	}
	if h.store, err = file.Open(filepath.Join(h.dir, "store"), ring, h.now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.store.Close() })
	issuer, err := stepca.New(issuerConfig, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	h.cert = tlscert.Certificate{Name: "payments", DNSNames: []string{"payments.test"}, Usage: "server", Issuer: issuer, Lifetime: 12 * time.Hour}
	for _, name := range []string{"one", "two"} {
		config := files.Config{Directory: filepath.Join(h.dir, name)}
		h.cert.Deliveries = append(h.cert.Deliveries, tlscert.Delivery{Name: name, Deliverer: files.New(config, filepath.Join(h.dir, "state-"+name), h.now)})
	}
	h.target = rotate.Target{Name: "payments", Kind: tlscert.Name, Waves: []activities.Wave{{Deliveries: []string{"one"}}, {Deliveries: []string{"two"}}}}
	h.steps = rotate.New(rotate.Dependencies{
		Store: h.store, Recorder: h.ledger, Now: h.now,
		Kinds:   map[string]rotate.Kind{tlscert.Name: tlscert.New(h.store, func(string) (tlscert.Certificate, bool) { return h.cert, true }, h.now)},
		Targets: func(name string) (rotate.Target, bool) { t := h.target; t.Name = name; return t, true },
		Decide: func(s rotate.Situation) activities.Verdict {
			h.saw = s
			if s.Target.Name == h.declines {
				return activities.Verdict{}
			}
			return h.verdict
		},
		NextDue: func(s rotate.Situation) (time.Time, bool) { return s.Observation.Current.NotAfter, true },
	})
	return h
}

func (h *house) now() time.Time { return time.Now().Add(h.clock) }

func (h *house) as(step string) context.Context {
	return rotate.WithCaller(h.t.Context(), rotate.Caller{Workflow: "rotate/payments", Run: "r", Step: step})
}

func (h *house) open(run string, trigger activities.Trigger) activities.Plan {
	h.t.Helper()
	plan, err := h.steps.Open(h.as("rotate.open"), activities.OpenRequest{Target: "payments", Run: run, Trigger: trigger})
	if err != nil {
		h.t.Fatal(err)
	}
	return plan
}

func request(plan activities.Plan) activities.StepRequest {
	return activities.StepRequest{Target: "payments", Rotation: plan.Rotation, Epoch: plan.Epoch}
}

func (h *house) prepare(plan activities.Plan) activities.Candidate {
	h.t.Helper()
	if _, err := h.steps.Mint(h.as("rotate.mint"), request(plan)); err != nil {
		h.t.Fatal(err)
	}
	candidate, err := h.steps.Set(h.as("rotate.set"), request(plan))
	if err != nil {
		h.t.Fatal(err)
	}
	if _, err := h.steps.Test(h.as("rotate.test"), request(plan)); err != nil {
		h.t.Fatal(err)
	}
	return candidate
}

func (h *house) publish(plan activities.Plan, deliveries ...string) error {
	_, err := h.steps.Publish(h.as("rotate.publish"), activities.PublishRequest{StepRequest: request(plan), Deliveries: deliveries})
	return err
}

func (h *house) retire(plan activities.Plan) error {
	_, err := h.steps.Retire(h.as("rotate.retire"), activities.RetireRequest{StepRequest: request(plan), Converged: []string{"record-9"}, Dead: true})
	return err
}

func (h *house) end(plan activities.Plan, state activities.State) error {
	_, err := h.steps.End(h.as("rotate.end"), activities.EndRequest{StepRequest: request(plan), State: state})
	return err
}

func (h *house) rollback(plan activities.Plan) error {
	_, err := h.steps.Rollback(h.as("rotate.rollback"), request(plan))
	return err
}

// rotateOnce makes a whole rotation and returns its candidate.
func (h *house) rotateOnce(run string) (activities.Plan, activities.Candidate) {
	h.t.Helper()
	plan := h.open(run, activities.Trigger{Source: "schedule"})
	candidate := h.prepare(plan)
	for _, name := range []string{"one", "two"} {
		h.must(h.publish(plan, name))
	}
	h.must(h.retire(plan))
	return plan, candidate
}

func (h *house) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

// refused wants an error of the kind.
func (h *house) refused(err error, kind activities.Kind) {
	h.t.Helper()
	if err == nil || activities.KindOf(err) != kind {
		h.t.Fatalf("got %v, want an error of kind %s", err, kind)
	}
}

func (h *house) head() rotate.Head {
	h.t.Helper()
	head, err := h.steps.Head(h.t.Context(), "payments")
	h.must(err)
	return head
}

// visible returns the fingerprint behind a delivery.
func (h *house) visible(i int) string {
	h.t.Helper()
	seen, err := h.cert.Deliveries[i].Deliverer.Observe(h.t.Context())
	h.must(err)
	return seen.Fingerprint
}

// keys lists the epochs whose key the store still has.
func (h *house) keys() string {
	h.t.Helper()
	names, err := h.store.List(h.t.Context(), "keys/payments/")
	h.must(err)
	var alive []string
	for _, name := range names {
		if _, err := h.store.Read(h.t.Context(), name); err == nil {
			alive = append(alive, strings.TrimPrefix(name, "keys/payments/"))
		}
	}
	return strings.Join(alive, " ")
}

// noKeys wants no private key in any file below the house but those that are served.
func (h *house) noKeys() {
	h.t.Helper()
	h.must(filepath.WalkDir(h.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.Contains(path, "/generations/") {
			return err
		}
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), "PRIVATE KEY") {
			h.t.Errorf("%s holds a private key", path)
		}
		return nil
	}))
	for _, e := range h.ledger.entries {
		if text := fmt.Sprint(e); strings.Contains(text, "PRIVATE") {
			h.t.Errorf("evidence holds a private key: %s", e.Step)
		}
	}
}

// denied is a delivery whose state directory belongs to somebody else.
type denied struct{ deliver.Deliverer }

func (denied) Retire(context.Context, activities.Epoch) error {
	return activities.Errorf(activities.Denied, "erase what was kept: permission denied")
}
