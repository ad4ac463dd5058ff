package schedules

import (
	"bytes"
	"context"
	"errors"
	"log/slog"

	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	commonpb "go.temporal.io/api/common/v1"
)

// lines collects logs.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) logger() *slog.Logger  { return slog.New(slog.NewTextHandler(l, nil)) }
func (l *lines) has(text string) bool  { return strings.Contains(l.String(), text) }
func (l *lines) count(text string) int { return strings.Count(l.String(), text) }

// salted is a payload codec that wraps each payload in a different one each time, like encryption.
type salted struct {
	mu sync.Mutex
	n  byte
}

func (s *salted) Encode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*commonpb.Payload, len(payloads))
	for i, p := range payloads {
		data, err := p.Marshal()
		if err != nil {
			return nil, err
		}
		s.n++
		out[i] = &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("binary/salted")}, Data: append([]byte{s.n}, data...)}
	}
	return out, nil
}

func (s *salted) Decode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	out := make([]*commonpb.Payload, len(payloads))
	for i, p := range payloads {
		out[i] = p
		if string(p.Metadata["encoding"]) != "binary/salted" {
			continue
		}
		out[i] = &commonpb.Payload{}
		if err := out[i].Unmarshal(p.Data[1:]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func TestJudge(t *testing.T) {
	declared := declare(t, nil) // alarms after five minutes
	begun := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	tests := map[string]struct {
		change  func(*Actual)
		gone    bool
		success time.Time
		after   time.Duration // since begun
		want    []string
	}{
		"it succeeded in time":                           {success: begun, after: 5 * time.Minute},
		"it did not succeed in time":                     {success: begun, after: 5*time.Minute + 1, want: []string{"has not succeeded since 2026-03-01T12:00:00Z"}},
		"it was just made and has not run yet":           {change: func(a *Actual) { a.Created = begun.Add(time.Hour) }, after: time.Hour},
		"it was made long ago and has never succeeded":   {change: func(a *Actual) { a.Created = begun.Add(-time.Hour) }, want: []string{"has never succeeded"}},
		"it was paused with a note":                      {change: func(a *Actual) { a.Paused, a.Note = true, "by ada" }, success: begun, want: []string{"is paused: by ada"}},
		"it was paused without a note":                   {change: func(a *Actual) { a.Paused = true }, success: begun, want: []string{"is paused"}},
		"it was edited":                                  {change: func(a *Actual) { a.shape.Every = time.Hour }, success: begun, want: []string{"was edited by hand; castellan schedules diff shows what"}},
		"its declaration changed and is not applied yet": {change: func(a *Actual) { a.shape.Every = time.Hour; a.Applied = a.shape.digest() }, success: begun},
		"it is gone":                                     {gone: true, success: begun, want: []string{"does not exist in the engine; castellan schedules apply makes it"}},
		"it is gone and its last success is too long ago": {gone: true, success: begun.Add(-time.Hour), want: []string{
			"does not exist in the engine; castellan schedules apply makes it", "has not succeeded since 2026-03-01T11:00:00Z"}},
		"it is gone and never was, for less than its time": {gone: true, after: time.Minute, want: []string{"does not exist in the engine; castellan schedules apply makes it"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			found := applied(t, declared[0])
			found.Created = begun
			if test.change != nil {
				test.change(&found)
			}
			actual := []Actual{found}
			if test.gone {
				actual = nil
			}
			success := map[string]time.Time{}
			if !test.success.IsZero() {
				success["castellan/sweep"] = test.success
			}
			got := judge(declared, actual, success, begun, begun.Add(test.after))
			if diff := cmp.Diff(test.want, got[0].Alarms()); diff != "" {
				t.Errorf("alarms (-want +got):\n%s", diff)
			}
		})
	}
}

// scene is a watchdog over an engine and a database that can be made to fail.
type scene struct {
	*Watchdog
	now     time.Time
	actual  []Actual
	away    error
	success remembered
	logs    *lines
}

func newScene(t *testing.T) *scene {
	declared := declare(t, nil)
	s := &scene{now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC), actual: []Actual{applied(t, declared[0])}, logs: &lines{}}
	s.success = remembered{"castellan/sweep": s.now}
	s.Watchdog = NewWatchdog(WatchdogParts{
		Declared: declared, Reconciler: Reconciler{Successes: s.success}, Log: s.logs.logger(), Now: func() time.Time { return s.now },
	})
	s.observe = func(context.Context, []Schedule) ([]Actual, error) { return s.actual, s.away }
	return s
}

// gathered returns the metrics by name.
func (s *scene) gathered(t *testing.T) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			value := metric.GetGauge().GetValue() + metric.GetCounter().GetValue()
			values[strings.TrimPrefix(family.GetName(), "castellan_schedule_")] = value
		}
	}
	return values
}

func TestWatchdogLogsAnAlarmOnceAndItsEnd(t *testing.T) {
	s := newScene(t)
	s.actual[0].Paused = true
	for range 3 {
		if err := s.Look(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.logs.count("is paused"); got != 1 {
		t.Errorf("the pause was logged %d times, want once:\n%s", got, s.logs)
	}
	s.actual[0].Paused = false
	if err := s.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !s.logs.has("schedule alarm is over") {
		t.Errorf("the end was not logged:\n%s", s.logs)
	}
}

func TestWatchdogAlarmsWhileTheEngineIsAway(t *testing.T) {
	s := newScene(t)
	if err := s.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.away, s.now = errors.New("connection refused"), s.now.Add(10*time.Minute)
	if err := s.Look(t.Context()); err == nil {
		t.Error("no error although the engine is away")
	}
	if !s.logs.has("has not succeeded since") {
		t.Errorf("the missing success was not logged:\n%s", s.logs)
	}
	if s.Standings()[0].Deleted {
		t.Error("a schedule that could not be looked at counts as deleted")
	}
	if got := s.gathered(t); got["watchdog_failed_looks_total"] != 1 || got["deleted"] != 0 || got["lateness_seconds"] != 300 {
		t.Errorf("metrics = %v, want one failed look, not deleted, 300s late", got)
	}
}

func TestTheWatchdogsOwnSilenceShowsInItsMetrics(t *testing.T) {
	s := newScene(t)
	if got := s.gathered(t)["watchdog_heartbeat_timestamp_seconds"]; got != 0 {
		t.Errorf("heartbeat = %v before the first look, want 0", got)
	}
	if err := s.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	began := seconds(s.now)
	s.now = s.now.Add(time.Hour) // the watchdog hangs; somebody else scrapes
	got := s.gathered(t)
	if got["watchdog_heartbeat_timestamp_seconds"] != began {
		t.Errorf("heartbeat = %v, want it to stand still at %v", got["watchdog_heartbeat_timestamp_seconds"], began)
	}
	if got["since_success_seconds"] != 3600 || got["lateness_seconds"] != 3300 {
		t.Errorf("metrics = %v, want ages that grow without the watchdog", got)
	}
}

func TestWatchdogExportsEveryStanding(t *testing.T) {
	s := newScene(t)
	s.actual[0].Paused, s.actual[0].shape.Every = true, time.Hour
	s.actual[0].MissedCatchUp, s.actual[0].SkippedOverlap = 3, 4
	if err := s.Look(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := s.gathered(t)
	want := map[string]float64{
		"last_success_timestamp_seconds": seconds(s.now), "since_success_seconds": 0, "lateness_seconds": 0,
		"paused": 1, "deleted": 0, "edited": 1, "missed_catchup": 3, "skipped_overlap": 4,
		"watchdog_heartbeat_timestamp_seconds": seconds(s.now), "watchdog_failed_looks_total": 0,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got):\n%s", diff)
	}
}

func TestWatchdogRunsUntilItIsToldToStop(t *testing.T) {
	s := newScene(t)
	s.away = errors.New("connection refused")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, time.Millisecond) }()
	eventually(t, "three failed looks", func() bool { return s.logs.count("cannot look") >= 3 })
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if !slices.ContainsFunc(s.Standings(), func(st Standing) bool { return st.Schedule == "castellan/sweep" }) {
		t.Error("no standing was kept")
	}
}
