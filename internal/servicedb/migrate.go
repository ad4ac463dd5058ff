package servicedb

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

//go:embed migrations
var migrations embed.FS

// migration is one step of the schema: a file that never changes once it is released.
type migration struct {
	name string // NNNN_name
	sha  string // of the file's bytes, hex
	text string
}

// migrationName is what a migration's file is called: the number gives the order.
var migrationName = regexp.MustCompile(`^[0-9]{4}_[a-z0-9_]+\.sql$`)

// released lists the dialect's migrations in this binary, in order.
func released(d Dialect) ([]migration, error) {
	dir := path.Join("migrations", string(d))
	files, err := fs.ReadDir(migrations, dir) // sorted by name
	if err != nil {
		return nil, err
	}
	var list []migration
	for _, file := range files {
		name := file.Name()
		if !migrationName.MatchString(name) {
			return nil, fmt.Errorf("migration %q: want NNNN_name.sql", name)
		}
		text, err := fs.ReadFile(migrations, path.Join(dir, name))
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(text)
		list = append(list, migration{name[:len(name)-len(".sql")], hex.EncodeToString(sum[:]), string(text)})
	}
	return list, nil
}

const createMigrations = `CREATE TABLE IF NOT EXISTS schema_migrations (name TEXT PRIMARY KEY, sha256 TEXT NOT NULL)`

// migrate applies what is missing, each migration in a transaction of its own. Processes that start
// together queue at the write lock; the later ones find the work done.
func (db *DB) migrate(ctx context.Context) error {
	known, err := released(db.Dialect)
	if err != nil {
		return invalid("read migrations: %w", err)
	}
	return db.migrateTo(ctx, known)
}

// migrateTo brings the schema to the last of the known migrations.
func (db *DB) migrateTo(ctx context.Context, known []migration) error {
	if current, err := db.current(ctx, known); err != nil || current {
		return err
	}
	for _, next := range known {
		err := db.Tx(ctx, func(tx *Tx) error {
			if _, err := tx.Exec(ctx, createMigrations); err != nil {
				return failed("create schema_migrations", err)
			}
			applied, err := appliedMigrations(ctx, tx)
			if err != nil {
				return err
			}
			if err := compatible(known, applied); err != nil {
				return err
			}
			if slices.ContainsFunc(applied, func(m migration) bool { return m.name == next.name }) {
				return nil
			}
			if _, err := tx.Exec(ctx, next.text); err != nil {
				return failed(fmt.Sprintf("apply migration %q", next.name), err)
			}
			_, err = tx.Exec(ctx, `INSERT INTO schema_migrations (name, sha256) VALUES (?, ?)`, next.name, next.sha)
			return failed(fmt.Sprintf("note migration %q", next.name), err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// current reports whether nothing is to be applied, without taking the write lock: a reader such as
// `castellan evidence export` must be able to open a database that a writer is busy with.
func (db *DB) current(ctx context.Context, known []migration) (bool, error) {
	var exists int
	query := `SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'`
	if db.Dialect == Postgres {
		query = `SELECT COUNT(*) FROM pg_class WHERE oid = to_regclass('schema_migrations')`
	}
	if err := db.QueryRow(ctx, query).Scan(&exists); err != nil {
		return false, failed("look for schema_migrations", err)
	}
	if exists == 0 {
		return false, nil
	}
	applied, err := appliedMigrations(ctx, db)
	if err != nil {
		return false, err
	}
	return len(applied) == len(known), compatible(known, applied)
}

func appliedMigrations(ctx context.Context, q Querier) ([]migration, error) {
	rows, err := q.Query(ctx, `SELECT name, sha256 FROM schema_migrations`)
	if err != nil {
		return nil, failed("read schema_migrations", err)
	}
	defer rows.Close()
	var list []migration
	for rows.Next() {
		var m migration
		if err := rows.Scan(&m.name, &m.sha); err != nil {
			return nil, failed("read schema_migrations", err)
		}
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b migration) int { return strings.Compare(a.name, b.name) })
	return list, failed("read schema_migrations", rows.Err())
}

// compatible compares what was applied with what this binary knows: the applied ones must be the first
// ones, unchanged. Names sort in the order of their numbers.
func compatible(known, applied []migration) error {
	for i, m := range applied {
		at := slices.IndexFunc(known, func(k migration) bool { return k.name == m.name })
		switch {
		case at < 0 && i >= len(known):
			return invalid("the database's schema is %s and this castellan knows up to %s: run the version that wrote it, or a later one",
				applied[len(applied)-1].name, known[len(known)-1].name)
		case at < 0:
			return invalid("the database has migration %s, which this castellan does not know: it was written by another version", m.name)
		case at != i:
			return invalid("migration %s is missing although the later %s is applied", known[i].name, m.name)
		case known[at].sha != m.sha:
			return invalid("migration %s is not the one that was applied: a released migration must not be edited", m.name)
		}
	}
	return nil
}
