package servicedb_test

import (
	"context"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/internal/servicedb"
	"castellan.dev/testsuite/fault"
	"castellan.dev/testsuite/servers/postgres"
)

func openPostgres(t *testing.T, dsnFile string) *servicedb.DB {
	t.Helper()
	db, err := servicedb.Open(t.Context(), servicedb.Config{Kind: servicedb.KindPostgres, DSNFile: dsnFile})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestPostgresConnectionStringsAreStrictAndNeverQuoted(t *testing.T) {
	const secret = "s3cret-canary"
	for name, test := range map[string]struct {
		dsn  string
		want string
	}{
		"no TLS to another host":                 {"postgres://u:" + secret + "@db.example.com/x?sslmode=disable", `host "db.example.com" is on another machine, want sslmode=verify-full`},
		"TLS by preference only":                 {"postgres://u:" + secret + "@db.example.com/x", "want sslmode=verify-full"},
		"TLS without a proven name":              {"postgres://u:" + secret + "@db.example.com/x?sslmode=require", "want sslmode=verify-full"},
		"an address of the network":              {"host=10.0.0.1 user=u password=" + secret + " sslmode=prefer", "want sslmode=verify-full"},
		"one of several hosts elsewhere":         {"postgres://u:" + secret + "@127.0.0.1,db.example.com/x?sslmode=disable", `host "db.example.com"`},
		"what is no connection string":           {"postgres://u:" + secret + "@[/x", "not a PostgreSQL connection string"},
		"a word of it unknown":                   {"host=db.example.com password=" + secret + " sslmode=perhaps", "not a PostgreSQL connection string"},
		"a file that is too long":                {"password=" + secret + strings.Repeat(" ", 20<<10), "longer than"},
		"a server that nobody runs":              {"postgres://u:" + secret + "@127.0.0.1:1/x?sslmode=disable", "connect to the database"},
		"a name to prove, and no server for it":  {"postgres://u:" + secret + "@db.invalid/x?sslmode=verify-full", "connect to the database"},
		"a Unix socket that is not there":        {"host=/nowhere user=u password=" + secret, "connect to the database"},
		"a loopback address without encryption":  {"postgres://u:" + secret + "@[::1]:1/x", "connect to the database"},
		"an answer from something else entirely": {"postgres://u:" + secret + "@localhost:1/x?sslmode=disable", "connect to the database"},
	} {
		t.Run(name, func(t *testing.T) {
			db, err := servicedb.Open(t.Context(), servicedb.Config{Kind: servicedb.KindPostgres, DSNFile: postgres.DSNFile(t, test.dsn)})
			if err == nil {
				db.Close()
				t.Fatal("opened")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %q, want %q in it", err, test.want)
			}
			if strings.Contains(err.Error(), secret) {
				t.Errorf("the error quotes the password: %q", err)
			}
			if strings.Contains(test.want, "verify-full") && activities.KindOf(err) != activities.Invalid {
				t.Errorf("kind %q, want invalid", activities.KindOf(err))
			}
		})
	}
}

func TestPostgresReadsARotatedPasswordForTheNextConnection(t *testing.T) {
	server := postgres.Start(t)
	file := postgres.DSNFile(t, server.DSN())
	db := openPostgres(t, file)
	err := db.Tx(t.Context(), func(tx *servicedb.Tx) error {
		_, err := tx.Exec(t.Context(), `ALTER ROLE castellan PASSWORD 'another'`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	server.Restart() // every connection has to be made again
	if err := db.Succeeded(t.Context(), "sweep", time.Now()); activities.KindOf(err) != activities.Denied {
		t.Errorf("with the previous password: %v, want denied", err)
	}
	current, err := url.Parse(server.DSN())
	if err != nil {
		t.Fatal(err)
	}
	current.User = url.UserPassword(postgres.User, "another")
	server.Password = "another"
	if err := os.WriteFile(file, []byte(current.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := db.Succeeded(t.Context(), "sweep", time.Now()); err != nil {
		t.Errorf("with the current password: %v", err)
	}
}

func TestPostgresCrashIsTransientAndForgotten(t *testing.T) {
	server := postgres.Start(t)
	db := openPostgres(t, postgres.DSNFile(t, server.DSN()))
	if err := db.Succeeded(t.Context(), "before", time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	server.Kill()
	if err := db.Succeeded(t.Context(), "during", time.Unix(1, 0)); activities.KindOf(err) != activities.Transient {
		t.Errorf("while the server is down: %v, want transient", err)
	}
	server.Restart()
	if err := db.Succeeded(t.Context(), "after", time.Unix(1, 0)); err != nil {
		t.Errorf("after the restart: %v", err)
	}
	got, err := db.Successes(t.Context())
	if err != nil || len(got) != 2 || got[0].Schedule != "after" || got[1].Schedule != "before" {
		t.Errorf("kept %v (%v), want after and before", got, err)
	}
}

func TestPostgresLostCommitReplyIsUncertain(t *testing.T) {
	server := postgres.Start(t)
	proxy, err := fault.New(server.Address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { proxy.Close() })
	direct := openPostgres(t, postgres.DSNFile(t, server.DSN()))
	db := openPostgres(t, postgres.DSNFile(t, strings.Replace(server.DSN(), server.Address(), proxy.Address(), 1)))

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	attempts := 0
	done := make(chan error, 1)
	go func() {
		done <- db.Tx(ctx, func(tx *servicedb.Tx) error {
			attempts++
			if _, err := tx.Exec(ctx, `INSERT INTO schedule_successes (schedule) VALUES (?)`, "lost"); err != nil {
				return err
			}
			return proxy.Set(fault.Swallow) // the commit arrives, its reply does not
		})
	}()
	for deadline := time.Now().Add(time.Minute); ; {
		rows, err := direct.Successes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) == 1 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the commit never arrived")
		}
	}
	cancel()
	if err := <-done; activities.KindOf(err) != activities.Uncertain {
		t.Errorf("got %v, want uncertain", err)
	}
	if attempts != 1 {
		t.Errorf("%d attempts, want one: nobody knows whether it is done", attempts)
	}
}

func TestPostgresWriterThatVanishedDoesNotKeepTheLock(t *testing.T) {
	server := postgres.Start(t)
	db := openPostgres(t, postgres.DSNFile(t, server.DSN()))
	err := db.Tx(t.Context(), func(tx *servicedb.Tx) error {
		var limit string
		if err := tx.QueryRow(t.Context(), `SHOW idle_in_transaction_session_timeout`).Scan(&limit); err != nil {
			return err
		}
		if limit != "1min" {
			t.Errorf("the server waits %s for a silent writer, want 1min", limit)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	var limit string
	if err := db.QueryRow(t.Context(), `SHOW idle_in_transaction_session_timeout`).Scan(&limit); err != nil || limit != "0" {
		t.Errorf("outside of a transaction the limit is %q (%v), want none", limit, err)
	}
}

func TestPostgresNeedsItsFile(t *testing.T) {
	_, err := servicedb.Open(t.Context(), servicedb.Config{Kind: servicedb.KindPostgres, DSNFile: filepath.Join(t.TempDir(), "missing")})
	if err == nil || !strings.Contains(err.Error(), "missing") {
		t.Errorf("got %v, want the file's name", err)
	}
}
