package ledger

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
	"castellan.dev/internal/servicedb"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"
)

func testAppendedRecordIsThereAfterARestart(t *testing.T, config servicedb.Config) {
	f := newFixture(t, config)
	l := f.open(t)
	receipt := mustAppend(t, l, entry(0))[0]
	if receipt.Index != 1 || receipt.ID != ID(entry(0)) || receipt.Repeated {
		t.Errorf("got receipt %+v, want index 1, the entry's id, not repeated", receipt)
	}
	before := l.PublicKey()
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	l = f.open(t)
	if l.PublicKey().String() != before.String() {
		t.Errorf("got key %s, want %s", l.PublicKey(), before)
	}
	got, err := l.Record(t.Context(), receipt.ID)
	if err != nil {
		t.Fatal(err)
	}
	want := entry(0)
	want.Actor = "privileged/web1"
	if diff := cmp.Diff(want, got.Entry); diff != "" {
		t.Errorf("entry (-want +got):\n%s", diff)
	}
	if got.Submitter != "privileged/web1" || got.Received.IsZero() {
		t.Errorf("got submitter %q and time %v", got.Submitter, got.Received)
	}
	if next := mustAppend(t, l, entry(1))[0]; next.Index != 2 {
		t.Errorf("got index %d, want 2", next.Index)
	}
}

func testRepeatedEntryLeavesOneRecord(t *testing.T, config servicedb.Config) {
	l := newFixture(t, config).open(t)
	first := mustAppend(t, l, entry(0))[0]
	again := entry(0)
	again.Run, again.At = "run-2", again.At.Add(time.Hour)
	got := mustAppend(t, l, again)[0]
	if want := (Receipt{first.ID, first.Index, true, false}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	again.Facts = map[string]string{"fingerprint": "other"}
	got = mustAppend(t, l, again)[0]
	if want := (Receipt{first.ID, first.Index, true, true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	kept, err := l.Record(t.Context(), first.ID)
	if err != nil || kept.Entry.Facts["fingerprint"] == "other" || kept.Entry.Run != "run-1" {
		t.Errorf("got %+v (%v), want the first entry", kept, err)
	}
	if head, err := l.Head(t.Context()); err != nil || head.Size != 2 {
		t.Errorf("got size %d (%v), want 2", head.Size, err)
	}
}

func TestWhatMayNotBeRecordedIsRefused(t *testing.T) {
	l := openLedger(t)
	for name, test := range map[string]struct {
		submitter string
		change    func(*record.Entry)
		want      activities.Kind
	}{
		"no submitter":                {"", func(*record.Entry) {}, activities.Denied},
		"a submitter like the ledger": {systemActor, func(*record.Entry) {}, activities.Denied},
		"another zone's actor":        {"observe", func(e *record.Entry) { e.Actor = "privileged" }, activities.Denied},
		"another host's actor":        {"privileged/web1", func(e *record.Entry) { e.Actor = "privileged/web2" }, activities.Denied},
		"the ledger's workflow":       {"privileged", func(e *record.Entry) { e.Workflow = systemWorkflow }, activities.Denied},
		"the ledger's actor":          {"privileged", func(e *record.Entry) { e.Actor = systemActor }, activities.Denied},
		"no workflow":                 {"privileged", func(e *record.Entry) { e.Workflow = "" }, activities.Invalid},
		"no step":                     {"privileged", func(e *record.Entry) { e.Step = "" }, activities.Invalid},
		"an unknown phase":            {"privileged", func(e *record.Entry) { e.Phase = "later" }, activities.Invalid},
		"no time":                     {"privileged", func(e *record.Entry) { e.At = time.Time{} }, activities.Invalid},
		"invalid UTF-8":               {"privileged", func(e *record.Entry) { e.Reason = "\xff" }, activities.Invalid},
		"a NUL":                       {"privileged", func(e *record.Entry) { e.Target = "a\x00b" }, activities.Invalid},
		"more than a record holds": {"privileged", func(e *record.Entry) {
			for n := range 100 {
				e.Facts[strings.Repeat("n", n+1)] = strings.Repeat("x", maxText)
			}
		}, activities.Invalid},
		"a long fact": {"privileged", func(e *record.Entry) { e.Facts["x"] = strings.Repeat("x", maxText+1) }, activities.Invalid},
	} {
		t.Run(name, func(t *testing.T) {
			e := entry(0)
			test.change(&e)
			_, err := l.Append(t.Context(), test.submitter, e)
			wantKind(t, err, test.want)
		})
	}
	for name, actor := range map[string]string{"its own zone": "privileged/web1", "a person": "anna@example.org", "nobody": ""} {
		e := entry(len(name))
		e.Actor = actor
		if _, err := l.Append(t.Context(), "privileged/web1", e); err != nil {
			t.Errorf("an entry by %s is refused: %v", name, err)
		}
	}
}

func testFiftySubmittersLeaveOneRecordEach(t *testing.T, config servicedb.Config) {
	l := newFixture(t, config).open(t)
	const submitters, each = 50, 20
	var repeated atomic.Int64
	var group sync.WaitGroup
	for worker := range submitters {
		group.Go(func() {
			for i := range each {
				// Each entry is submitted by two workers.
				receipt, err := l.Append(t.Context(), "privileged/web1", entry(worker/2*each+i))
				if err != nil {
					t.Error(err)
					return
				}
				if receipt.Repeated {
					repeated.Add(1)
				}
			}
		})
	}
	group.Wait()
	if got, want := repeated.Load(), int64(submitters/2*each); got != want {
		t.Errorf("got %d repetitions, want %d", got, want)
	}
	report := verify(t, export(t, l, Range{}), VerifyOptions{})
	if !report.OK() || len(report.Findings) != 0 || report.Size != submitters/2*each+1 {
		t.Errorf("got %d records, problems %v, findings %v", report.Size, report.Problems, report.Findings)
	}
}

func testProjectionIsInTheSameTransaction(t *testing.T, config servicedb.Config) {
	f := newFixture(t, config)
	refuse := errors.New("no")
	f.options.Project = func(ctx context.Context, tx *servicedb.Tx, e record.Entry) error {
		if _, err := tx.Exec(ctx, `INSERT INTO schedule_successes (schedule) VALUES (?)`, e.Workflow+string(e.Phase)); err != nil {
			return err
		}
		if e.Result == "refused" {
			return activities.Errorf(activities.Invalid, "project: %w", refuse)
		}
		return nil
	}
	l := f.open(t)
	var group sync.WaitGroup
	for n := range 60 {
		group.Go(func() {
			e := entry(n)
			if n%20 == 7 {
				e.Result = "refused"
			}
			_, err := l.Append(t.Context(), "privileged", e)
			if refused := n%20 == 7; errors.Is(err, refuse) != refused {
				t.Errorf("entry %d: got error %v, want refused %t", n, err, refused)
			}
		})
	}
	group.Wait()
	var projected int64
	if err := f.openDB(t).QueryRow(t.Context(), `SELECT COUNT(*) FROM schedule_successes`).Scan(&projected); err != nil {
		t.Fatal(err)
	}
	head, err := l.Head(t.Context())
	if err != nil || head.Size != 58 || projected != 57 {
		t.Errorf("got %d records and %d projections (%v), want 58 and 57", head.Size, projected, err)
	}
}

func TestRecordsAreFoundByTargetAndRotation(t *testing.T) {
	l := openLedger(t)
	fill(t, l, 0, 40)
	for name, query := range map[string]Query{
		"target":              {Target: "target-3"},
		"rotation":            {Rotation: "target-3@7"},
		"target and rotation": {Target: "target-3", Rotation: "target-3@7"},
	} {
		list, err := l.Records(t.Context(), query)
		if err != nil || len(list) != 2 || list[0].Entry.Target != "target-3" || list[0].Index < list[1].Index {
			t.Errorf("by %s: got %v (%v), want two records of target-3, the latest first", name, list, err)
		}
	}
	if list, err := l.Records(t.Context(), Query{Rotation: "target-3@8"}); err != nil || len(list) != 0 {
		t.Errorf("got %v (%v), want none", list, err)
	}
	if list, err := l.Records(t.Context(), Query{Before: 10, Limit: 3}); err != nil || len(list) != 3 || list[0].Index != 9 {
		t.Errorf("got %v (%v), want records 9, 8, 7", list, err)
	}
	_, err := l.Record(t.Context(), "nothing")
	wantKind(t, err, activities.NotFound)
}

func TestClosedLedgerTakesNothingAndSignsEverything(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	l := f.open(t)
	mustAppend(t, l, entry(0))
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := l.Append(t.Context(), "privileged", entry(1))
	if !errors.Is(err, ErrClosed) || activities.KindOf(err) != activities.Transient {
		t.Errorf("got %v, want a transient ErrClosed", err)
	}
	if c, found, err := f.place(t).Last(t.Context()); err != nil || !found || c.Size != 2 {
		t.Errorf("got checkpoint %+v (%t, %v), want one of 2 records", c, found, err)
	}
}

func TestCheckpointsAreWrittenOnSchedule(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	f.options.Interval = time.Millisecond
	l := f.open(t)
	mustAppend(t, l, entry(0), entry(1))
	reader := f.place(t)
	for {
		c, found, err := reader.Last(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if found && c.Size == 3 {
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("no checkpoint of 3 records came")
		}
	}
}

func TestOlderCopyOfTheDatabaseIsNotSigned(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	l := f.open(t)
	fill(t, l, 0, 10)
	f.shut(t, l)
	copyFile(t, f.config.Path, f.config.Path+".older")

	l = f.open(t)
	fill(t, l, 10, 20)
	f.shut(t, l)
	t.Run("restored", func(t *testing.T) {
		older := *f
		older.config.Path = f.config.Path + ".older"
		if head, err := Read(older.openDB(t)).Head(t.Context()); err != nil || head.Size != 11 {
			t.Fatalf("the copy holds %d records (%v), want 11", head.Size, err)
		}
		if _, err := older.tryOpen(t); !errors.Is(err, ErrRolledBack) {
			t.Errorf("got %v, want ErrRolledBack", err)
		}
	})
	t.Run("emptied", func(t *testing.T) {
		empty := *f
		empty.config.Path = f.config.Path + ".empty"
		if _, err := empty.tryOpen(t); !errors.Is(err, ErrRolledBack) {
			t.Errorf("got %v, want ErrRolledBack", err)
		}
	})
	t.Run("restored and continued differently", func(t *testing.T) {
		fork := *f
		fork.config.Path = f.config.Path + ".older"
		fork.dir = t.TempDir() // an attacker's second place is empty
		l := fork.open(t)
		fill(t, l, 30, 50)
		fork.shut(t, l)
		fork.dir = f.dir
		if _, err := fork.tryOpen(t); !errors.Is(err, ErrForked) {
			t.Errorf("got %v, want ErrForked", err)
		}
	})
	t.Run("the latest one opens", func(t *testing.T) {
		if _, err := f.tryOpen(t); err != nil {
			t.Error(err)
		}
	})
}

func TestDatabaseChangedUnderTheLedgerIsNotSigned(t *testing.T) {
	for name, test := range map[string]struct {
		statements []string
		want       error
	}{
		"shortened": {[]string{`DROP TRIGGER ledger_records_stay`, `DELETE FROM ledger_records WHERE idx >= 5`,
			`UPDATE ledger_head SET size = 5`}, ErrRolledBack},
		"another root": {[]string{`UPDATE ledger_head SET root = zeroblob(32)`}, ErrForked},
		"another hash": {[]string{`DROP TRIGGER ledger_records_keep`, `UPDATE ledger_records SET hashes = zeroblob(length(hashes)) WHERE idx = 7`}, ErrForked},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, servicedb.Config{})
			l := f.open(t)
			fill(t, l, 0, 10)
			checkpoint(t, l)
			tamper(t, f, test.statements...)
			_, err := l.Checkpoint(t.Context())
			if err == nil || (name == "shortened" && !errors.Is(err, ErrRolledBack)) {
				t.Errorf("checkpoint: got %v, want a refusal", err)
			}
			if _, err := f.tryOpen(t); err == nil {
				t.Error("it was opened")
			}
			if name == "another hash" {
				return // the writer keeps the hashes that it needs and notices at the next checkpoint
			}
			_, err = l.Append(t.Context(), "privileged", entry(11))
			if !errors.Is(err, test.want) || activities.KindOf(err) != activities.Transient {
				t.Errorf("append: got %v, want a transient %v", err, test.want)
			}
		})
	}
}

// Whoever holds the database can rewrite it so that it adds up. The ledger remembers what it signed.
func TestRewrittenDatabaseIsNotSigned(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	l := f.open(t)
	fill(t, l, 0, 10)
	checkpoint(t, l)
	mustAppend(t, l, entry(10))
	rewrite(t, f, 4)
	if _, err := l.Checkpoint(t.Context()); !errors.Is(err, ErrForked) {
		t.Errorf("checkpoint: got %v, want ErrForked", err)
	}
	if _, err := f.tryOpen(t); !errors.Is(err, ErrForked) {
		t.Errorf("open: got %v, want ErrForked", err)
	}
	if _, err := l.Append(t.Context(), "privileged", entry(11)); !errors.Is(err, ErrForked) {
		t.Errorf("append: got %v, want ErrForked", err)
	}
}

// rewrite edits a record and recomputes every hash after it.
func rewrite(t *testing.T, f *fixture, index int64) {
	t.Helper()
	db := f.openDB(t)
	head, err := Read(db).Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	tamper(t, f, `DROP TRIGGER ledger_records_keep`)
	err = db.Tx(t.Context(), func(tx *servicedb.Tx) error {
		list, err := readRows(t.Context(), tx, 0, head.Size)
		if err != nil {
			return err
		}
		tree := &fringe{}
		for _, r := range list {
			if r.index == index {
				r.body = replaced(r.body, "2/3", "1/3")
			}
			hashes := joinHashes(tree.push(tlog.RecordHash(r.body)))
			if _, err := tx.Exec(t.Context(), `UPDATE ledger_records SET body = ?, hashes = ? WHERE idx = ?`, r.body, hashes, r.index); err != nil {
				return err
			}
		}
		root := tree.root()
		_, err = tx.Exec(t.Context(), `UPDATE ledger_head SET root = ?`, root[:])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnsignedTailMustAddUp(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	fill(t, f.open(t), 0, 10)
	tamper(t, f, `DROP TRIGGER ledger_records_keep`, `UPDATE ledger_records SET body = body || ' ' WHERE idx = 7`)
	_, err := f.tryOpen(t)
	if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), "record 7 ") {
		t.Errorf("got %v, want ErrDamaged that names record 7", err)
	}
}

func testRecordsAreGuardedAgainstMistakes(t *testing.T, config servicedb.Config) {
	f := newFixture(t, config)
	mustAppend(t, f.open(t), entry(0))
	db := f.openDB(t)
	for _, statement := range []string{`DELETE FROM ledger_records`, `UPDATE ledger_records SET target = ''`} {
		err := db.Tx(t.Context(), func(tx *servicedb.Tx) error {
			_, err := tx.Exec(t.Context(), statement)
			return err
		})
		if err == nil || !strings.Contains(err.Error(), "never") {
			t.Errorf("%s: got %v, want a refusal", statement, err)
		}
	}
}

func TestSigningKeyIsPrivateAndNeverMadeTwice(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	l := f.open(t)
	info, err := os.Stat(f.options.KeyFile)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v (%v), want 0600", info.Mode(), err)
	}
	if err := l.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(f.options.KeyFile, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := f.tryOpen(t); err == nil || !strings.Contains(err.Error(), "0600") {
		t.Errorf("got %v, want a refusal of a key that others may read", err)
	}
	if err := os.Remove(f.options.KeyFile); err != nil {
		t.Fatal(err)
	}
	if _, err := f.tryOpen(t); err == nil {
		t.Error("a ledger opened without its key")
	}
	if _, err := os.Stat(f.options.KeyFile); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want no key made for a log that has one", err)
	}
}

func TestCheckpointCutShortByACrashDoesNotCount(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	l := f.open(t)
	c := checkpoint(t, l)
	path := filepath.Join(f.dir, "checkpoints", fileName(0))
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := 1; cut < len(whole); cut++ {
		if err := os.WriteFile(path, append([]byte(string(whole)), whole[:cut]...), 0o600); err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(f.dir, "checkpoints", fileName(1)))
		place := f.place(t)
		if last, found, err := place.Last(t.Context()); err != nil || !found || last.Note != c.Note {
			t.Fatalf("cut at %d: got %+v (%t, %v), want the whole one", cut, last, found, err)
		}
		later := c
		later.Note = strings.Replace(c.Note, "\n1\n", "\n9\n", 1)
		if err := place.Put(t.Context(), later); err != nil {
			t.Fatal(err)
		}
		if last, found, err := f.place(t).Last(t.Context()); err != nil || !found || last.Size != 9 {
			t.Fatalf("cut at %d: got %+v (%t, %v), want the later one", cut, last, found, err)
		}
	}
}

func TestMissingFileOfTheSecondPlaceIsNoticed(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	place := f.place(t)
	if err := os.WriteFile(filepath.Join(f.dir, "checkpoints", fileName(1)), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := place.Last(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want an error about the missing first file", err)
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// tamper changes the database behind the ledger's back.
func tamper(t *testing.T, f *fixture, statements ...string) {
	t.Helper()
	err := f.openDB(t).Tx(t.Context(), func(tx *servicedb.Tx) error {
		for _, statement := range statements {
			if _, err := tx.Exec(t.Context(), statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
