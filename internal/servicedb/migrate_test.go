package servicedb

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/testsuite/servers/postgres"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "add the migrations that are not in testdata/released.sums: they are released now")

const sums = "testdata/released.sums"

// readSums returns what was released: digests by dialect and name, such as "sqlite/0001_init".
func readSums(t *testing.T) map[string]string {
	t.Helper()
	file, err := os.Open(sums)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	digests := map[string]string{}
	for lines := bufio.NewScanner(file); lines.Scan(); {
		digest, name, found := strings.Cut(lines.Text(), "  ")
		if !found {
			t.Fatalf("%s: line %q, want a digest and a name", sums, lines.Text())
		}
		digests[name] = digest
	}
	return digests
}

func TestReleasedMigrationsAreNeverEdited(t *testing.T) {
	digests := readSums(t)
	for _, dialect := range []Dialect{SQLite, Postgres} {
		known, err := released(dialect)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range known {
			name := string(dialect) + "/" + m.name
			digest, isReleased := digests[name]
			switch {
			case isReleased && digest != m.sha:
				t.Errorf("migration %s was edited after it was released: write another one", name)
			case !isReleased && *update:
				file, err := os.OpenFile(sums, os.O_APPEND|os.O_WRONLY, 0)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := fmt.Fprintf(file, "%s  %s\n", m.sha, name); err != nil {
					t.Fatal(err)
				}
				file.Close()
			}
			delete(digests, name)
		}
	}
	for name := range digests {
		t.Errorf("migration %s was released and is gone", name)
	}
}

// databases returns one way to open an empty database without any schema, by dialect.
func databases(t *testing.T) map[Dialect]func(t *testing.T) *DB {
	server := postgres.Start(t)
	open := func(t *testing.T, config Config) *DB {
		t.Helper()
		db, err := connect(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	return map[Dialect]func(t *testing.T) *DB{
		SQLite: func(t *testing.T) *DB { return open(t, Config{Path: filepath.Join(t.TempDir(), "service.db")}) },
		Postgres: func(t *testing.T) *DB {
			return open(t, Config{Kind: KindPostgres, DSNFile: postgres.DSNFile(t, server.Database(t))})
		},
	}
}

func TestMigrationsRunForwardFromEveryReleasedSchema(t *testing.T) {
	digests := readSums(t)
	for dialect, empty := range databases(t) {
		known, err := released(dialect)
		if err != nil {
			t.Fatal(err)
		}
		fresh := empty(t)
		if err := fresh.migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := schema(t, fresh)
		for i, m := range known {
			if digests[string(dialect)+"/"+m.name] == "" {
				break // not released: no database has this schema
			}
			t.Run(string(dialect)+" from "+m.name, func(t *testing.T) {
				db := empty(t)
				if err := db.migrateTo(t.Context(), known[:i+1]); err != nil {
					t.Fatal(err)
				}
				for _, earlier := range known[:i+1] {
					load(t, db, earlier.name)
				}
				if err := db.migrate(t.Context()); err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(want, schema(t, db)); d != "" {
					t.Errorf("the schema differs from a fresh one (-fresh +migrated):\n%s", d)
				}
				checkReleasedRows(t, db)
			})
		}
	}
}

// load inserts the rows of a released schema, if it brought any.
func load(t *testing.T, db *DB, name string) {
	t.Helper()
	rows, err := os.ReadFile(filepath.Join("testdata/released", name+".sql"))
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	exec(t, db, string(rows))
}

func exec(t *testing.T, db *DB, statements string) {
	t.Helper()
	err := db.Tx(t.Context(), func(tx *Tx) error {
		_, err := tx.Exec(t.Context(), statements)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// schema describes every table, column and index of the database, one per line.
func schema(t *testing.T, db *DB) []string {
	t.Helper()
	query := `SELECT m.type || ' ' || m.name || ' ' || COALESCE(c.name || ' ' || c.type || ' ' || c."notnull" || ' ' || COALESCE(c.dflt_value, '') || ' ' || c.pk || ' ' || c.hidden, m.sql, '')
		FROM sqlite_master m LEFT JOIN pragma_table_xinfo(m.name) c ON m.type = 'table' WHERE m.name NOT LIKE 'sqlite_%'`
	if db.Dialect == Postgres {
		query = `SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || COALESCE(column_default, '') || ' ' ||
				COALESCE(generation_expression, '') || ' ' || COALESCE(collation_name, '') FROM information_schema.columns WHERE table_schema = 'public'
			UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
			UNION ALL SELECT 'trigger ' || event_object_table || ' ' || trigger_name || ' ' || event_manipulation || ' ' || action_statement FROM information_schema.triggers`
	}
	lines, err := collect(t.Context(), db, func(scan scanner) (line string, err error) { return line, scan(&line) }, query)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return lines
}

// checkReleasedRows reads what testdata/released/0001_init.sql holds through today's methods.
func checkReleasedRows(t *testing.T, db *DB) {
	t.Helper()
	ctx := t.Context()
	noon := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	current := Credential{Fingerprint: "bbbb", Serial: "77", NotBefore: noon, NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), KeyAlgorithm: "ecdsa-p256"}
	target, err := db.Target(ctx, "api")
	if err != nil {
		t.Fatal(err)
	}
	want := Target{
		Name: "api", Kind: "tlscert", Owner: "web", Policy: "daily", ExclusionGroup: "edge", Declared: true, Current: current,
		DueAt: noon.Add(16 * time.Hour), HeldUntil: noon.Add(17 * time.Hour), HoldReason: "the issuer is down", Failures: 2,
		LastRotation: "api@7", LastEpoch: 7, LastState: activities.Retired, UpdatedAt: noon.Add(9 * time.Minute),
	}
	if d := cmp.Diff(want, target); d != "" {
		t.Errorf("target (-want +got):\n%s", d)
	}
	rotation, err := db.Rotation(ctx, "api@7")
	if err != nil {
		t.Fatal(err)
	}
	if rotation.Candidate != current || rotation.Previous.Serial != "66" || len(rotation.Stragglers) != 1 || rotation.Trigger.Actor != "ana" {
		t.Errorf("rotation is %+v", rotation)
	}
	due, _, err := db.Due(ctx, noon.Add(17*time.Hour), 0, "")
	if err != nil || len(due) != 1 || due[0].Target != "api" {
		t.Errorf("due: %v, %v, want api", due, err)
	}
	stragglers, err := db.Stragglers(ctx, 0)
	if err != nil || len(stragglers) != 1 {
		t.Errorf("stragglers: %v, %v, want one", stragglers, err)
	}
	lost, err := db.IssuedNotReceived(ctx, "api")
	if err != nil || len(lost) != 1 {
		t.Errorf("lost certificates: %v, %v, want one", lost, err)
	}
	successes, err := db.Successes(ctx)
	if err != nil || len(successes) != 1 || !successes[0].LastSuccess.Equal(noon) {
		t.Errorf("successes: %v, %v, want one at noon", successes, err)
	}
}

func TestSchemasOfOtherVersionsAreToldApart(t *testing.T) {
	known := []migration{{name: "0001_init", sha: "a"}, {name: "0002_ledger", sha: "b"}, {name: "0003_more", sha: "c"}}
	for name, test := range map[string]struct {
		applied []migration
		want    string // in the error; empty: compatible
	}{
		"an empty database is brought forward":            {},
		"an older one is brought forward":                 {applied: known[:1]},
		"the same one is left alone":                      {applied: known},
		"a newer one is refused":                          {applied: slices.Concat(known, []migration{{name: "0004_future"}, {name: "0005_beyond"}}), want: "schema is 0005_beyond and this castellan knows up to 0003_more"},
		"a fork is refused":                               {applied: []migration{known[0], {name: "0002_other"}}, want: "0002_other, which this castellan does not know"},
		"one with a hole is refused":                      {applied: []migration{known[0], known[2]}, want: "0002_ledger is missing although the later 0003_more is applied"},
		"one with an edited migration is refused":         {applied: []migration{known[0], {name: "0002_ledger", sha: "x"}}, want: "0002_ledger is not the one that was applied"},
		"an edited migration is told before a newer one":  {applied: slices.Concat([]migration{{name: "0001_init", sha: "x"}}, known[1:], []migration{{name: "0004_future"}}), want: "0001_init is not the one"},
		"a newer one that was edited below says so first": {applied: []migration{{name: "0000_before"}, known[0]}, want: "0000_before, which"},
	} {
		t.Run(name, func(t *testing.T) {
			err := compatible(known, test.applied)
			if got := fmt.Sprint(err); (test.want == "") != (err == nil) || !strings.Contains(got, test.want) && test.want != "" {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestAMigrationThatFailsLeavesTheSchemaBeforeIt(t *testing.T) {
	for dialect, empty := range databases(t) {
		t.Run(string(dialect), func(t *testing.T) {
			db := empty(t)
			broken := []migration{
				{name: "0001_first", sha: "1", text: "CREATE TABLE first (n INTEGER)"},
				{name: "0002_broken", sha: "2", text: "CREATE TABLE half (n INTEGER); INSERT INTO first (n) VALUES (1); INSERT INTO nowhere VALUES (1)"},
			}
			err := db.migrateTo(t.Context(), broken)
			if err == nil || !strings.Contains(err.Error(), `apply migration "0002_broken"`) {
				t.Fatalf("got %v, want the migration's name", err)
			}
			applied, err := appliedMigrations(context.Background(), db)
			if err != nil || len(applied) != 1 {
				t.Errorf("applied %v, %v, want the first one", applied, err)
			}
			var n int
			if err := db.QueryRow(t.Context(), `SELECT COUNT(*) FROM first`).Scan(&n); err != nil || n != 0 {
				t.Errorf("%d rows of the broken migration are left (%v)", n, err)
			}
			if err := db.QueryRow(t.Context(), `SELECT COUNT(*) FROM half`).Scan(&n); err == nil {
				t.Error("a table of the broken migration is left")
			}
		})
	}
}
