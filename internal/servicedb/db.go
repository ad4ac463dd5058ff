package servicedb

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"time"

	"castellan.dev/activities"
)

// Dialect is the SQL that a database speaks.
type Dialect string

const (
	SQLite   Dialect = "sqlite"
	Postgres Dialect = "postgres"
)

// DB is an open service database.
type DB struct {
	Dialect Dialect

	sql *sql.DB
	// writer holds one token per process for SQLite: waiting writers queue here, in order, instead of
	// polling the file's lock. It is nil for PostgreSQL, whose advisory lock queues by itself.
	writer chan struct{}
}

// Open opens the database and brings its schema forward. It refuses a database that a later version
// of castellan has written, and one whose applied migrations are not the ones in this binary.
func Open(ctx context.Context, config Config) (*DB, error) {
	if err := config.problem(); err != nil {
		return nil, activities.Errorf(activities.Invalid, "open service database: %w", err)
	}
	db, err := connect(ctx, config)
	if err != nil {
		return nil, failed("open service database", err)
	}
	if err := db.migrate(ctx); err != nil {
		db.Close()
		return nil, failed("open service database", err)
	}
	return db, nil
}

func connect(ctx context.Context, config Config) (*DB, error) {
	if config.kind() == KindPostgres {
		return connectPostgres(ctx, config.DSNFile)
	}
	return connectSQLite(ctx, config.Path)
}

// Close closes the database. Transactions that are open are rolled back.
func (db *DB) Close() error { return db.sql.Close() }

// Ping reports whether the database answers.
func (db *DB) Ping(ctx context.Context) error {
	return failed("ping service database", db.sql.PingContext(ctx))
}

// Rebind turns every ? of the query into the dialect's placeholder. A query must not hold a ? that is
// not a placeholder.
func (db *DB) Rebind(query string) string { return db.Dialect.rebind(query) }

func (d Dialect) rebind(query string) string {
	if d != Postgres || !strings.Contains(query, "?") {
		return query
	}
	var out strings.Builder
	n := 0
	for {
		before, after, found := strings.Cut(query, "?")
		out.WriteString(before)
		if !found {
			return out.String()
		}
		n++
		out.WriteString("$" + strconv.Itoa(n))
		query = after
	}
}

// Querier reads. Both [DB] and [Tx] are queriers, so a query function serves inside and outside of a
// transaction. Queries use ? as placeholder.
type Querier interface {
	Query(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRow(ctx context.Context, query string, args ...any) *sql.Row
}

// Query reads rows outside of a transaction.
func (db *DB) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return db.sql.QueryContext(ctx, db.Rebind(query), args...)
}

// QueryRow reads one row outside of a transaction.
func (db *DB) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return db.sql.QueryRowContext(ctx, db.Rebind(query), args...)
}

// Tx is a transaction. It is good for one goroutine, until the function it was given to returns.
type Tx struct {
	Dialect Dialect

	tx *sql.Tx
}

// Query reads rows. They must be closed before the next statement of the transaction.
func (tx *Tx) Query(ctx context.Context, query string, args ...any) (*sql.Rows, error) {
	return tx.tx.QueryContext(ctx, tx.Dialect.rebind(query), args...)
}

// QueryRow reads one row.
func (tx *Tx) QueryRow(ctx context.Context, query string, args ...any) *sql.Row {
	return tx.tx.QueryRowContext(ctx, tx.Dialect.rebind(query), args...)
}

// Exec runs a statement and returns the number of rows that it changed.
func (tx *Tx) Exec(ctx context.Context, query string, args ...any) (int64, error) {
	result, err := tx.tx.ExecContext(ctx, tx.Dialect.rebind(query), args...)
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// How often and how patiently a transaction is tried again after a failure that left nothing behind.
const (
	txAttempts = 5
	txPause    = 20 * time.Millisecond
)

// Tx runs fn in a transaction that holds the database's one write lock and commits it when fn returns
// nil. What fn reads is the latest committed state. When Tx returns nil, the changes survive a crash.
//
// A transaction that the database gave up (busy, deadlock, serialization, connection lost before the
// commit) is tried again a few times, so fn must have no effect but its statements. An error with the
// kind activities.Uncertain means that the commit's reply was lost.
func (db *DB) Tx(ctx context.Context, fn func(*Tx) error) error {
	if db.writer != nil {
		select {
		case db.writer <- struct{}{}:
			defer func() { <-db.writer }()
		case <-ctx.Done():
			return failed("wait for the service database's write lock", ctx.Err())
		}
	}
	pause := txPause
	for attempt := 1; ; attempt++ {
		err := db.attempt(ctx, nil, fn)
		if err == nil || attempt == txAttempts || !repeatable(err) {
			return err
		}
		select {
		case <-time.After(pause):
			pause *= 2
		case <-ctx.Done():
			return err
		}
	}
}

// View runs fn in a read-only transaction: everything that fn reads is one state of the database.
func (db *DB) View(ctx context.Context, fn func(Querier) error) error {
	return db.attempt(ctx, &sql.TxOptions{ReadOnly: true}, func(tx *Tx) error { return fn(tx) })
}

// attempt runs one transaction. A nil option asks for a writing one.
func (db *DB) attempt(ctx context.Context, options *sql.TxOptions, fn func(*Tx) error) error {
	if options != nil && db.Dialect == Postgres {
		options.Isolation = sql.LevelRepeatableRead
	}
	tx, err := db.sql.BeginTx(ctx, options)
	if err != nil {
		return failed("begin transaction", err)
	}
	defer tx.Rollback() // does nothing after a commit
	if options == nil && db.Dialect == Postgres {
		if _, err := tx.ExecContext(ctx, lockPostgres); err != nil {
			return failed("wait for the service database's write lock", err)
		}
	}
	if err := fn(&Tx{Dialect: db.Dialect, tx: tx}); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return failed("commit transaction", err) // not sent: certainly undone
	}
	return committed(tx.Commit())
}

// committed classifies the outcome of a commit: unless the transaction is known to be undone, nobody knows.
func committed(err error) error {
	if err == nil {
		return nil
	}
	if undone(err) {
		return failed("commit transaction", err)
	}
	return activities.Errorf(activities.Uncertain, "commit transaction: %w", err)
}
