package servicedb

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// lockPostgres queues the transaction behind every other writer of this database, until it ends. A writer
// that vanished without closing its connection is cut off by the server, so it cannot keep the lock.
// The number is "castella" in ASCII; it is part of the protocol between castellan processes.
const lockPostgres = `SELECT set_config('idle_in_transaction_session_timeout', '60s', true), pg_advisory_xact_lock(7161131826250804321)`

// maxDSN bounds the file that holds the connection string.
const maxDSN = 16 << 10

// connectPostgres opens a pool whose connections are made with what the file says at that moment.
func connectPostgres(ctx context.Context, dsnFile string) (*DB, error) {
	first, err := readDSN(dsnFile)
	if err != nil {
		return nil, err
	}
	pool := stdlib.OpenDB(*first, stdlib.OptionBeforeConnect(func(_ context.Context, config *pgx.ConnConfig) error {
		latest, err := readDSN(dsnFile)
		if err != nil {
			return err
		}
		*config = *latest
		return nil
	}))
	pool.SetMaxOpenConns(16)
	pool.SetMaxIdleConns(4)
	pool.SetConnMaxIdleTime(5 * time.Minute)
	pool.SetConnMaxLifetime(time.Hour)
	if err := pool.PingContext(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("connect to the database in %q: %w", dsnFile, err)
	}
	return &DB{Dialect: Postgres, sql: pool}, nil
}

// readDSN reads and checks the connection string. Its errors never quote it: it holds a password.
func readDSN(path string) (*pgx.ConnConfig, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxDSN+1))
	if err != nil {
		return nil, err
	}
	if len(text) > maxDSN {
		return nil, invalid("read %q: longer than %d bytes", path, maxDSN)
	}
	config, err := pgx.ParseConfig(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, invalid("read %q: not a PostgreSQL connection string", path)
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "castellan"
	}
	config.ConnectTimeout = min(config.ConnectTimeout, 30*time.Second)
	if err := requireTLS(config); err != nil {
		return nil, invalid("read %q: %w", path, err)
	}
	return config, nil
}

// requireTLS refuses a connection string that could send the password over a network to a server which
// has not proven its name.
func requireTLS(config *pgx.ConnConfig) error {
	strict := func(host string, conf *tls.Config) error {
		if conf != nil {
			conf.MinVersion = tls.VersionTLS12
		}
		if local(host) || (conf != nil && !conf.InsecureSkipVerify && conf.ServerName != "") {
			return nil
		}
		return fmt.Errorf("host %q is on another machine, want sslmode=verify-full", host)
	}
	if err := strict(config.Host, config.TLSConfig); err != nil {
		return err
	}
	for _, fallback := range config.Fallbacks {
		if err := strict(fallback.Host, fallback.TLSConfig); err != nil {
			return err
		}
	}
	return nil
}

// local reports whether the host is a Unix socket's directory or a loopback address.
func local(host string) bool {
	if strings.HasPrefix(host, "/") || strings.HasPrefix(host, "@") || host == "localhost" {
		return true
	}
	address := net.ParseIP(host)
	return address != nil && address.IsLoopback()
}
