package conformance

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/servicedb"

	"github.com/google/go-cmp/cmp"
)

// RunServiceDB runs the service database's suite. Fresh returns the configuration of an empty database
// that belongs to the test alone. The test binary's TestMain must call [ServiceDBChild] first.
func RunServiceDB(t *testing.T, fresh func(t *testing.T) servicedb.Config) {
	for _, test := range []struct {
		name string
		run  func(*serviceDB)
	}{
		{"inventory follows the configuration", (*serviceDB).inventory},
		{"only what is due is listed, the longest waiting first", (*serviceDB).due},
		{"the sweep walks the index of what is due", (*serviceDB).dueIndex},
		{"holding a target counts each failed run once", (*serviceDB).hold},
		{"a paused target is not due", (*serviceDB).pause},
		{"a quarantined target waits for a person", (*serviceDB).quarantined},
		{"an observed target is looked at once a day", (*serviceDB).observed},
		{"targets are listed by filter and page", (*serviceDB).targets},
		{"a schedule's last success never goes back", (*serviceDB).schedules},
		{"an entry becomes a rotation record", (*serviceDB).projection},
		{"the projection does not depend on the order of entries", (*serviceDB).order},
		{"a late entry of an older epoch changes no newer target", (*serviceDB).lateEpoch},
		{"a rollback brings the previous credential back", (*serviceDB).rollback},
		{"an unreadable fact is left out and refuses nothing", (*serviceDB).unreadable},
		{"an intent moves no state", (*serviceDB).intent},
		{"stragglers are named until they are proven", (*serviceDB).stragglers},
		{"rotations are listed by filter and page", (*serviceDB).rotations},
		{"a lost certificate is kept", (*serviceDB).lost},
		{"metrics are counted", (*serviceDB).metrics},
		{"concurrent writers lose no update", (*serviceDB).writers},
		{"a failed transaction leaves nothing behind", (*serviceDB).aborted},
		{"a reader is not blocked by a writer", (*serviceDB).readers},
		{"a view is one state of the database", (*serviceDB).view},
		{"what was committed survives kill -9, and nothing else does", (*serviceDB).crash},
		{"processes that start together migrate once", (*serviceDB).together},
		{"a newer schema is refused", (*serviceDB).newer},
		{"an edited migration is refused", (*serviceDB).edited},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := &serviceDB{T: t, fresh: fresh, config: fresh(t), noon: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
			s.db = s.open()
			test.run(s)
		})
	}
}

// serviceDB is one test of the suite.
type serviceDB struct {
	*testing.T
	fresh  func(*testing.T) servicedb.Config
	config servicedb.Config
	db     *servicedb.DB // open on config
	noon   time.Time     // what the tests take for now
}

// open opens the test's database once more, as another process would.
func (s *serviceDB) open() *servicedb.DB {
	s.Helper()
	db, err := servicedb.Open(s.Context(), s.config)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { db.Close() })
	return db
}

func (s *serviceDB) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// same fails the test when got is not want.
func (s *serviceDB) same(what string, want, got any) {
	s.Helper()
	if d := cmp.Diff(want, got); d != "" {
		s.Errorf("%s (-want +got):\n%s", what, d)
	}
}

// declare makes the inventory hold exactly the named targets.
func (s *serviceDB) declare(names ...string) {
	s.Helper()
	var declared []servicedb.DeclaredTarget
	for _, name := range names {
		declared = append(declared, servicedb.DeclaredTarget{Name: name, Kind: "tlscert", Owner: "team", Policy: "default"})
	}
	_, err := s.db.ApplyInventory(s.Context(), declared, s.noon)
	s.must(err)
}

// target returns a target that must be there.
func (s *serviceDB) target(name string) servicedb.Target {
	s.Helper()
	target, err := s.db.Target(s.Context(), name)
	s.must(err)
	return target
}

// exec runs one statement.
func (s *serviceDB) exec(statement string, args ...any) {
	s.Helper()
	s.must(s.db.Tx(s.Context(), func(tx *servicedb.Tx) error {
		_, err := tx.Exec(s.Context(), statement, args...)
		return err
	}))
}

func (s *serviceDB) inventory() {
	db, ctx, noon := s.db, s.Context(), s.noon
	api := servicedb.DeclaredTarget{Name: "api", Kind: "tlscert", Owner: "web", Policy: "daily", ExclusionGroup: "edge"}
	mail := servicedb.DeclaredTarget{Name: "mail", Kind: "tlscert", Owner: "web", Policy: "daily", Observed: true}
	apply := func(at time.Time, want servicedb.InventoryChange, declared ...servicedb.DeclaredTarget) {
		s.Helper()
		got, err := db.ApplyInventory(ctx, declared, at)
		s.must(err)
		s.same("change", want, got)
	}
	apply(noon, servicedb.InventoryChange{Added: []string{"api", "mail"}}, api, mail)
	apply(noon.Add(time.Hour), servicedb.InventoryChange{}, api, mail)
	got, err := db.Target(ctx, "mail")
	s.must(err)
	s.same("added target", servicedb.Target{Name: "mail", Kind: "tlscert", Owner: "web", Policy: "daily", Observed: true, Declared: true, DueAt: noon, UpdatedAt: noon}, got)

	// Another owner does not make a target due; another policy does.
	s.project(record.Entry{Target: "api", Phase: record.Outcome, At: noon, Facts: map[string]string{record.FactDueAt: stamp(noon.Add(48 * time.Hour))}})
	api.Owner = "edge"
	apply(noon.Add(2*time.Hour), servicedb.InventoryChange{Updated: []string{"api"}}, api, mail)
	if got, _ = db.Target(ctx, "api"); got.Owner != "edge" || !got.DueAt.Equal(noon.Add(48*time.Hour)) {
		s.Errorf("owner %q due at %v, want edge and the date as it was", got.Owner, got.DueAt)
	}
	api.Policy = "hourly"
	apply(noon.Add(3*time.Hour), servicedb.InventoryChange{Updated: []string{"api"}}, api, mail)
	if got, _ = db.Target(ctx, "api"); !got.DueAt.Equal(noon.Add(3 * time.Hour)) {
		s.Errorf("due at %v, want at once because it has another policy", got.DueAt)
	}
	s.dueAt("api", noon.Add(96*time.Hour))
	api.Spec = "renews earlier"
	apply(noon.Add(3*time.Hour), servicedb.InventoryChange{Updated: []string{"api"}}, api, mail)
	if got, _ = db.Target(ctx, "api"); !got.DueAt.Equal(noon.Add(3 * time.Hour)) {
		s.Errorf("due at %v, want at once because the policy's contents changed", got.DueAt)
	}

	apply(noon.Add(4*time.Hour), servicedb.InventoryChange{Removed: []string{"api"}}, mail)
	got, err = db.Target(ctx, "api")
	s.must(err)
	if got.Declared || !got.RemovedAt.Equal(noon.Add(4*time.Hour)) {
		s.Errorf("removed target is declared=%v removed at %v", got.Declared, got.RemovedAt)
	}
	due, _, err := db.Due(ctx, noon.Add(1000*time.Hour), 0, "")
	s.must(err)
	if len(due) != 1 || due[0].Target != "mail" {
		s.Errorf("due %v, want only the declared target", due)
	}
	apply(noon.Add(5*time.Hour), servicedb.InventoryChange{Added: []string{"api"}}, api, mail)
	if got, _ = db.Target(ctx, "api"); !got.Declared || !got.RemovedAt.IsZero() {
		s.Errorf("target declared again is declared=%v removed at %v", got.Declared, got.RemovedAt)
	}
	if _, err := db.Target(ctx, "nobody"); activities.KindOf(err) != activities.NotFound {
		s.Errorf("unknown target: %v, want not_found", err)
	}
}

func (s *serviceDB) schedules() {
	db, ctx, noon := s.db, s.Context(), s.noon
	s.must(db.Started(ctx, "sweep", noon))
	s.must(db.Succeeded(ctx, "sweep", noon.Add(time.Minute)))
	s.must(db.Succeeded(ctx, "sweep", noon)) // late
	s.must(db.Started(ctx, "checkpoint", noon))
	got, err := db.Successes(ctx)
	s.must(err)
	s.same("successes", []servicedb.Success{
		{Schedule: "checkpoint", LastStarted: noon},
		{Schedule: "sweep", LastSuccess: noon.Add(time.Minute), LastStarted: noon},
	}, got)
}

func (s *serviceDB) writers() {
	ctx := s.Context()
	handles := []*servicedb.DB{s.db, s.open()} // as two processes have
	const writers, rounds = 8, 20
	var runs atomic.Int64
	count := func(db *servicedb.DB) error {
		return db.Tx(ctx, func(tx *servicedb.Tx) error {
			runs.Add(1)
			var n int
			if err := tx.QueryRow(ctx, `SELECT COALESCE(MAX(last_success_at), 0) FROM schedule_successes WHERE schedule = ?`, "counter").Scan(&n); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `INSERT INTO schedule_successes (schedule, last_success_at) VALUES (?, ?)
				ON CONFLICT (schedule) DO UPDATE SET last_success_at = excluded.last_success_at`, "counter", n+1)
			return err
		})
	}
	var group sync.WaitGroup
	failures := make(chan error, writers*rounds)
	for i := range writers {
		group.Go(func() {
			for range rounds {
				if err := count(handles[i%len(handles)]); err != nil {
					failures <- err
				}
			}
		})
	}
	group.Wait()
	close(failures)
	for err := range failures {
		s.Error(err)
	}
	if n := runs.Load(); n != writers*rounds {
		s.Errorf("%d transactions ran %d times: some were repeated because of others", writers*rounds, n)
	}
	var got int
	s.must(handles[0].QueryRow(ctx, `SELECT last_success_at FROM schedule_successes WHERE schedule = ?`, "counter").Scan(&got))
	if got != writers*rounds {
		s.Errorf("counted %d of %d", got, writers*rounds)
	}
}

func (s *serviceDB) aborted() {
	db, ctx, noon := s.db, s.Context(), s.noon
	refused := errors.New("no")
	err := db.Tx(ctx, func(tx *servicedb.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO schedule_successes (schedule) VALUES (?)`, "half"); err != nil {
			return err
		}
		return refused
	})
	if !errors.Is(err, refused) {
		s.Errorf("got %v, want the function's own error", err)
	}
	func() {
		defer func() { _ = recover() }()
		_ = db.Tx(ctx, func(tx *servicedb.Tx) error {
			if _, err := tx.Exec(ctx, `INSERT INTO schedule_successes (schedule) VALUES (?)`, "half"); err != nil {
				return err
			}
			panic("in the middle")
		})
	}()
	s.must(db.Succeeded(ctx, "whole", noon)) // the lock is free again
	got, err := db.Successes(ctx)
	s.must(err)
	s.same("what is left", []servicedb.Success{{Schedule: "whole", LastSuccess: noon}}, got)
}

func (s *serviceDB) readers() {
	db, ctx, noon := s.db, s.Context(), s.noon
	s.must(db.Succeeded(ctx, "before", noon))
	s.must(db.Tx(ctx, func(tx *servicedb.Tx) error {
		if _, err := tx.Exec(ctx, `INSERT INTO schedule_successes (schedule) VALUES (?)`, "during"); err != nil {
			return err
		}
		// Answers while the transaction is open, with what was committed before it.
		got, err := db.Successes(ctx)
		s.same("seen from outside", []servicedb.Success{{Schedule: "before", LastSuccess: noon}}, got)
		return err
	}))
}

func (s *serviceDB) view() {
	db, ctx, noon := s.db, s.Context(), s.noon
	s.must(db.Succeeded(ctx, "a", noon))
	s.must(db.View(ctx, func(q servicedb.Querier) error {
		for i, want := range []int{1, 1} {
			var got int
			if err := q.QueryRow(ctx, `SELECT COUNT(*) FROM schedule_successes`).Scan(&got); err != nil {
				return err
			}
			if got != want {
				s.Errorf("read %d: %d rows, want %d", i, got, want)
			}
			if err := db.Succeeded(ctx, fmt.Sprint("later", i), noon); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (s *serviceDB) together() {
	config := s.fresh(s.T)
	var group sync.WaitGroup
	failures := make(chan error, 8)
	for range 8 {
		group.Go(func() {
			db, err := servicedb.Open(context.Background(), config)
			if err == nil {
				err = db.Close()
			}
			failures <- err
		})
	}
	group.Wait()
	close(failures)
	for err := range failures {
		if err != nil {
			s.Error(err)
		}
	}
}

func (s *serviceDB) newer() {
	s.refused(`INSERT INTO schema_migrations (name, sha256) VALUES ('9999_future', 'f')`, "9999_future", "run the version that wrote it, or a later one")
}

func (s *serviceDB) edited() {
	s.refused(`UPDATE schema_migrations SET sha256 = 'edited' WHERE name = '0001_init'`, "0001_init", "must not be edited")
}

// refused tampers with the noted migrations and expects Open to say these words, in one line, and to
// leave everything as it was.
func (s *serviceDB) refused(tamper string, words ...string) {
	s.Helper()
	db, ctx, noon := s.db, s.Context(), s.noon
	s.must(db.Succeeded(ctx, "kept", noon))
	s.exec(tamper)
	other, err := servicedb.Open(ctx, s.config)
	if err == nil {
		other.Close()
		s.Fatal("the database was opened")
	}
	if activities.KindOf(err) != activities.Invalid || strings.Contains(err.Error(), "\n") {
		s.Errorf("kind %q, error %q", activities.KindOf(err), err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			s.Errorf("error %q does not say %q", err, word)
		}
	}
	got, err := db.Successes(ctx)
	s.must(err)
	s.same("what was there", []servicedb.Success{{Schedule: "kept", LastSuccess: noon}}, got)
}
