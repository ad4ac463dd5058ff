package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/servicedb"
	"castellan.dev/testsuite/servers/postgres"
)

func TestMain(m *testing.M) {
	appendUntilKilled()
	os.Exit(m.Run())
}

// start is the moment at which the tests' clock begins.
var start = time.Date(2026, 3, 1, 10, 0, 0, 0, time.UTC)

// clock advances by a millisecond each time somebody looks at it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(time.Millisecond)
	return c.now
}

// fixture is a ledger with everything that it stands on, so that a test can close and open it again.
type fixture struct {
	db      *servicedb.DB // of the ledger that was opened last
	dir     string
	config  servicedb.Config
	options Options
}

func newFixture(t testing.TB, config servicedb.Config) *fixture {
	t.Helper()
	dir := t.TempDir()
	if config.Kind == "" {
		config.Path = filepath.Join(dir, "service.db")
	}
	f := &fixture{dir: dir, config: config}
	f.options = Options{KeyFile: filepath.Join(dir, "ledger.key"), Place: f.place(t), Interval: -1, Now: (&clock{now: start}).Now}
	return f
}

func (f *fixture) place(t testing.TB) *Directory {
	t.Helper()
	place, err := NewDirectory(filepath.Join(f.dir, "checkpoints"))
	if err != nil {
		t.Fatal(err)
	}
	return place
}

func (f *fixture) openDB(t testing.TB) *servicedb.DB {
	t.Helper()
	db, err := servicedb.Open(t.Context(), f.config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// tryOpen opens the ledger with a fresh look at the second place.
func (f *fixture) tryOpen(t testing.TB) (*Ledger, error) {
	t.Helper()
	f.options.Place = f.place(t)
	f.db = f.openDB(t)
	l, err := Open(t.Context(), f.db, f.options)
	if err == nil {
		t.Cleanup(func() { l.Close(context.Background()) })
	}
	return l, err
}

func (f *fixture) open(t testing.TB) *Ledger {
	t.Helper()
	l, err := f.tryOpen(t)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// shut closes the ledger and its database, so that the file holds everything.
func (f *fixture) shut(t testing.TB, l *Ledger) {
	t.Helper()
	if err := errors.Join(l.Close(t.Context()), f.db.Close()); err != nil {
		t.Fatal(err)
	}
}

func openLedger(t testing.TB) *Ledger {
	t.Helper()
	return newFixture(t, servicedb.Config{}).open(t)
}

// entry makes the n-th entry of a plausible log: intent and outcome of one step after the other.
func entry(n int) record.Entry {
	e := record.Entry{
		Workflow: fmt.Sprintf("rotate/target-%d", n/2), Run: "run-1", Step: "rotate.set", Target: fmt.Sprintf("target-%d", n/2),
		Rotation: activities.NewRotationID(fmt.Sprintf("target-%d", n/2), 7), Epoch: 7, Phase: record.Intent,
		Reason: "renews at 2/3 of its lifetime", At: start.Add(time.Duration(n) * time.Second),
		Facts: map[string]string{"fingerprint": fmt.Sprintf("%064x", n), "serial": "340282366920938463463374607431768211455"},
	}
	if n%2 == 1 {
		e.Phase, e.Result = record.Outcome, "ok"
	}
	return e
}

func mustAppend(t testing.TB, l *Ledger, entries ...record.Entry) []Receipt {
	t.Helper()
	var list []Receipt
	for _, e := range entries {
		receipt, err := l.Append(t.Context(), "privileged/web1", e)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, receipt)
	}
	return list
}

// fill appends the entries from..to-1 from many goroutines, so that they share transactions. An intent and
// its outcome come from one of them, in order.
func fill(t testing.TB, l *Ledger, from, to int) {
	t.Helper()
	next := make(chan int)
	var group sync.WaitGroup
	for range maxBatch {
		group.Go(func() {
			for n := range next {
				for n, end := n, min(n+2, to); n < end; n++ {
					if _, err := l.Append(t.Context(), "privileged/web1", entry(n)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for n := from; n < to; n += 2 {
		next <- n
	}
	close(next)
	group.Wait()
}

func export(t testing.TB, l *Ledger, part Range) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := l.Export(t.Context(), &out, part); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func verify(t testing.TB, text []byte, options VerifyOptions) *Report {
	t.Helper()
	report, err := Verify(bytes.NewReader(text), options)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func checkpoint(t testing.TB, l *Ledger) Checkpoint {
	t.Helper()
	c, err := l.Checkpoint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The promises that depend on the database hold on both.
func TestLedgerOnEachDatabase(t *testing.T) {
	server := postgres.Start(t)
	for name, test := range map[string]func(*testing.T, servicedb.Config){
		"an appended record is there after a restart":            testAppendedRecordIsThereAfterARestart,
		"a repeated entry leaves one record":                     testRepeatedEntryLeavesOneRecord,
		"fifty submitters leave one record for each entry":       testFiftySubmittersLeaveOneRecordEach,
		"the projection is in the same transaction":              testProjectionIsInTheSameTransaction,
		"records are guarded against mistakes":                   testRecordsAreGuardedAgainstMistakes,
		"a killed writer loses nothing that it has acknowledged": testKilledWriterLosesNothingThatItAcknowledged,
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("sqlite", func(t *testing.T) { test(t, servicedb.Config{}) })
			t.Run("postgres", func(t *testing.T) {
				test(t, servicedb.Config{Kind: servicedb.KindPostgres, DSNFile: postgres.DSNFile(t, server.Database(t))})
			})
		})
	}
}

func wantKind(t testing.TB, err error, want activities.Kind) {
	t.Helper()
	if err == nil || activities.KindOf(err) != want {
		t.Errorf("got error %v of kind %q, want kind %q", err, activities.KindOf(err), want)
	}
}
