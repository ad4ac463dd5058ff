package servicedb

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime"

	_ "modernc.org/sqlite" // the driver "sqlite"
)

// connectSQLite opens the file, making it first so that it is never readable for others, not even for a
// moment. SQLite gives the WAL and its index the mode of the file.
func connectSQLite(ctx context.Context, path string) (*DB, error) {
	if err := private(path); err != nil {
		return nil, err
	}
	pool, err := sql.Open("sqlite", sqliteDSN(path))
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", path, err)
	}
	connections := max(4, runtime.NumCPU())
	pool.SetMaxOpenConns(connections)
	pool.SetMaxIdleConns(connections)
	if err := pool.PingContext(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("open %q: %w", path, err)
	}
	return &DB{Dialect: SQLite, sql: pool, writer: make(chan struct{}, 1)}, nil
}

func private(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err // names the act and the path itself
	}
	return errors.Join(file.Chmod(0o600), file.Close())
}

// sqliteDSN asks for a log that survives a power cut (WAL, synchronous FULL), for writing transactions that
// take the lock at once (a later upgrade could fail half-way) and for patience with other processes.
func sqliteDSN(path string) string {
	options := url.Values{
		"_txlock": {"immediate"},
		"_pragma": {
			"busy_timeout(10000)",
			"journal_mode(WAL)",
			"synchronous(FULL)",
			"foreign_keys(1)",
			"trusted_schema(0)",
			"journal_size_limit(67108864)",
		},
	}
	return (&url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: options.Encode()}).String()
}
