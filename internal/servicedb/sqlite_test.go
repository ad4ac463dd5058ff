package servicedb_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/internal/servicedb"
)

func openSQLite(t *testing.T, path string) *servicedb.DB {
	t.Helper()
	db, err := servicedb.Open(t.Context(), servicedb.Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func TestSQLiteFilesAreForTheOwnerOnly(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0))
	for name, existing := range map[string]fs.FileMode{"a fresh file": 0, "a file that others could read": 0o644} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a b%20c", "service.db")
			if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if existing != 0 {
				if err := os.WriteFile(path, nil, existing); err != nil {
					t.Fatal(err)
				}
			}
			db := openSQLite(t, path)
			if err := db.Succeeded(t.Context(), "sweep", time.Now()); err != nil {
				t.Fatal(err)
			}
			for _, suffix := range []string{"", "-wal", "-shm"} {
				info, err := os.Stat(path + suffix)
				if err != nil {
					t.Fatal(err)
				}
				if got := info.Mode().Perm(); got != 0o600 {
					t.Errorf("%s has mode %o, want 600", filepath.Base(path+suffix), got)
				}
			}
		})
	}
}

// TestSQLiteConnectionsAreDurable looks at several connections at once: settings are made per connection.
func TestSQLiteConnectionsAreDurable(t *testing.T) {
	db := openSQLite(t, filepath.Join(t.TempDir(), "service.db"))
	const connections = 4
	var together, group sync.WaitGroup
	together.Add(connections)
	for range connections {
		group.Go(func() {
			err := db.View(context.Background(), func(q servicedb.Querier) error {
				together.Done()
				together.Wait() // every goroutine holds a connection of its own now
				for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "foreign_keys": "1", "busy_timeout": "10000"} {
					var got string
					if err := q.QueryRow(context.Background(), "PRAGMA "+pragma).Scan(&got); err != nil {
						return err
					}
					if got != want {
						t.Errorf("%s is %s, want %s", pragma, got, want)
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
}

func TestSQLiteRefusesWhatIsNoDatabase(t *testing.T) {
	path := filepath.Join(t.TempDir(), "service.db")
	text := []byte("this is a text file, and it is long enough to be taken for a database's first page by nobody at all")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if db, err := servicedb.Open(t.Context(), servicedb.Config{Path: path}); activities.KindOf(err) != activities.Invalid {
		t.Errorf("got %v, %v, want invalid", db, err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != string(text) {
		t.Errorf("the file is %q now (%v)", got, err)
	}
}

func TestAWaitingWriterGivesUpWithItsContext(t *testing.T) {
	db := openSQLite(t, filepath.Join(t.TempDir(), "service.db"))
	err := db.Tx(t.Context(), func(*servicedb.Tx) error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		return db.Succeeded(ctx, "sweep", time.Now()) // would wait for ever for this very transaction
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context canceled", err)
	}
}
