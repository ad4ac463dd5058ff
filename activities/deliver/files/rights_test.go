package files_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver/files"
	"castellan.dev/testsuite/conformance"
)

// served returns the paths of key and certificate as consumers open them.
func served(c files.Config) (certificate, key string) {
	if c.Layout == files.Combined {
		return c.Path, c.Path
	}
	if c.Layout == files.Plain {
		return c.Certificate, c.Key
	}
	return filepath.Join(c.Directory, "current", "tls.crt"), filepath.Join(c.Directory, "current", "tls.key")
}

func wantMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s has mode %04o, want %04o", path, got, want)
	}
}

func TestModesAreKeptOrSet(t *testing.T) {
	for _, layout := range []string{files.Generation, files.Combined, files.Plain} {
		t.Run(layout, func(t *testing.T) {
			c := place(t, layout)
			ca := conformance.NewAuthority(t, "modes")
			previous, m := ca.Material(t, 1), ca.Material(t, 2)
			if _, err := files.New(c, "", time.Now).Publish(t.Context(), previous, ""); err != nil {
				t.Fatal(err)
			}
			certificate, key := served(c)
			wantMode(t, key, 0o600)
			if layout != files.Combined {
				wantMode(t, certificate, 0o644)
			}
			if err := os.Chmod(key, 0o444); err != nil { // somebody gave too much: others do not keep it
				t.Fatal(err)
			}
			if _, err := files.New(c, "", time.Now).Publish(t.Context(), m, previous.Fingerprint); err != nil {
				t.Fatal(err)
			}
			wantMode(t, key, 0o440)
			if _, err := files.New(c, "", time.Now).Restore(t.Context(), 2, 3); err != nil {
				t.Fatal(err)
			}
			wantMode(t, key, 0o440)
			c.KeyMode, c.Mode = "0640", "0444"
			if _, err := files.New(c, "", time.Now).Publish(t.Context(), ca.Material(t, 4), previous.Fingerprint); err != nil {
				t.Fatal(err)
			}
			wantMode(t, key, 0o640)
			if layout != files.Combined {
				wantMode(t, certificate, 0o444)
			}
		})
	}
}

func TestOwnersAreKeptOrSet(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("only root can give files away: the refusal is checked instead")
		c := place(t, files.Generation)
		c.Owner = "0"
		_, err := files.New(c, "", time.Now).Publish(t.Context(), conformance.NewAuthority(t, "owners").Material(t, 1), "")
		if err == nil || activities.KindOf(err) != activities.Denied {
			t.Errorf("got %v, want kind %q", err, activities.Denied)
		}
		return
	}
	const user, group = 12345, 23456
	c := place(t, files.Generation)
	ca := conformance.NewAuthority(t, "owners")
	previous, m := ca.Material(t, 1), ca.Material(t, 2)
	c.Owner, c.Group = "12345", "23456"
	if _, err := files.New(c, "", time.Now).Publish(t.Context(), previous, ""); err != nil {
		t.Fatal(err)
	}
	c.Owner, c.Group = "", ""
	if _, err := files.New(c, "", time.Now).Publish(t.Context(), m, previous.Fingerprint); err != nil {
		t.Fatal(err)
	}
	certificate, key := served(c)
	for _, path := range []string{certificate, key} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if stat := info.Sys().(*syscall.Stat_t); stat.Uid != user || stat.Gid != group {
			t.Errorf("%s belongs to %d:%d, want %d:%d", path, stat.Uid, stat.Gid, user, group)
		}
	}
}

// TestAKeyIsNeverReadableByOthers looks at everything in the served directory all the time.
func TestAKeyIsNeverReadableByOthers(t *testing.T) {
	for _, layout := range []string{files.Generation, files.Combined} {
		t.Run(layout, func(t *testing.T) {
			c := place(t, layout)
			c.KeyMode = "0640"
			mask := syscall.Umask(0) // the process's mask would hide a mistake
			defer syscall.Umask(mask)
			d := files.New(c, "", time.Now)
			ca := conformance.NewAuthority(t, "secrecy")
			done, inspected := make(chan struct{}), 0
			var looking sync.WaitGroup
			looking.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						inspected += wantNoOpenKey(t, filepath.Dir(c.State))
					}
				}
			})
			expected := ""
			for epoch := activities.Epoch(1); epoch <= 20; epoch++ {
				m := ca.Material(t, epoch)
				if _, err := d.Publish(t.Context(), m, expected); err != nil {
					t.Fatal(err)
				}
				expected = m.Fingerprint
			}
			close(done)
			looking.Wait()
			if inspected == 0 {
				t.Error("no key was ever looked at")
			}
		})
	}
}

// wantNoOpenKey checks every file below the directory that holds a key, and returns how many there were.
func wantNoOpenKey(t *testing.T, directory string) int {
	keys := 0
	_ = filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil //nolint:nilerr // it went away meanwhile
		}
		handle, err := os.Open(path)
		if err != nil {
			return nil //nolint:nilerr // it went away meanwhile
		}
		defer handle.Close()
		before, err := handle.Stat()
		text := make([]byte, 8192)
		n, _ := handle.Read(text)
		if err != nil || !bytes.Contains(text[:n], []byte("PRIVATE KEY")) {
			return nil //nolint:nilerr // not a key
		}
		keys++
		if before.Mode().Perm()&0o007 != 0 {
			t.Errorf("%s holds a key and has mode %04o", path, before.Mode().Perm())
		}
		if strings.Contains(path, "/state/previous/") && before.Mode().Perm() != 0o600 {
			t.Errorf("%s keeps the previous key and has mode %04o, want 0600", path, before.Mode().Perm())
		}
		return nil
	})
	return keys
}

func TestWhatLeadsElsewhereIsRefused(t *testing.T) {
	ca := conformance.NewAuthority(t, "links")
	for name, c := range map[string]struct {
		layout string
		trap   func(t *testing.T, c *files.Config)
		want   activities.Kind
	}{
		"a link out of the served directory": {
			layout: files.Generation,
			trap: func(t *testing.T, c *files.Config) {
				must(t, os.MkdirAll(filepath.Join(c.State, "..", "elsewhere"), 0o755), os.Symlink("../elsewhere", filepath.Join(c.Directory, "current")))
			},
			want: activities.Invalid,
		},
		"generations that lead out of the served directory": {
			layout: files.Generation,
			trap: func(t *testing.T, c *files.Config) {
				must(t, os.MkdirAll(filepath.Join(c.State, "..", "elsewhere"), 0o755), os.Symlink("../elsewhere", filepath.Join(c.Directory, "generations")))
			},
			want: activities.Invalid,
		},
		"a directory in the link's place": {
			layout: files.Generation,
			trap:   func(t *testing.T, c *files.Config) { must(t, os.Mkdir(filepath.Join(c.Directory, "current"), 0o755)) },
			want:   activities.Invalid,
		},
		"a link in the combined file's place": {
			layout: files.Combined,
			trap:   func(t *testing.T, c *files.Config) { must(t, os.Symlink("other.pem", c.Path)) },
			want:   activities.Invalid,
		},
		"a FIFO in the combined file's place": {
			layout: files.Combined,
			trap:   func(t *testing.T, c *files.Config) { must(t, syscall.Mkfifo(c.Path, 0o600)) },
			want:   activities.Invalid,
		},
		"something that is no certificate": {
			layout: files.Combined,
			trap:   func(t *testing.T, c *files.Config) { must(t, os.WriteFile(c.Path, []byte("not mine"), 0o600)) },
			want:   activities.Conflict,
		},
		"a served directory that everybody may write": {
			layout: files.Combined,
			trap:   func(t *testing.T, c *files.Config) { must(t, os.Chmod(filepath.Dir(c.Path), 0o777)) },
			want:   activities.Invalid,
		},
		"a directory above that everybody may write": {
			layout: files.Generation,
			trap:   func(t *testing.T, c *files.Config) { must(t, os.Chmod(filepath.Dir(c.Directory), 0o777)) },
			want:   activities.Invalid,
		},
		"a state directory that links brought below the served one": {
			layout: files.Generation,
			trap: func(t *testing.T, c *files.Config) {
				inside := filepath.Join(c.Directory, "inside")
				must(t, os.Mkdir(inside, 0o700), os.RemoveAll(c.State), os.Symlink(inside, c.State))
			},
			want: activities.Invalid,
		},
		"a state directory of another delivery": {
			layout: files.Combined,
			trap: func(t *testing.T, c *files.Config) {
				other := *c
				other.Path += ".other"
				_, err := files.New(other, "", time.Now).Publish(t.Context(), ca.Material(t, 1), "")
				must(t, err)
			},
			want: activities.Invalid,
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := place(t, c.layout)
			must(t, os.MkdirAll(config.State, 0o700))
			c.trap(t, &config)
			base := filepath.Dir(config.State)
			before := tree(t, base)
			_, err := files.New(config, "", time.Now).Publish(t.Context(), ca.Material(t, 5), "")
			if err == nil || activities.KindOf(err) != c.want {
				t.Errorf("got %v, want kind %q", err, c.want)
			}
			if elsewhere := tree(t, filepath.Join(base, "elsewhere")); len(elsewhere) > 1 {
				t.Errorf("outside the served directory appeared %v", elsewhere)
			}
			for path := range before {
				if _, err := os.Lstat(path); err != nil {
					t.Errorf("what others had is gone: %v", err)
				}
			}
		})
	}
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

func tree(t *testing.T, directory string) map[string]bool {
	t.Helper()
	paths := map[string]bool{}
	_ = filepath.WalkDir(directory, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			paths[path] = true
		}
		return nil
	})
	return paths
}

// What others put beside the served files is theirs.
func TestForeignContentIsNeverRemoved(t *testing.T) {
	c := place(t, files.Generation)
	ca := conformance.NewAuthority(t, "others")
	theirs := []string{
		filepath.Join(c.Directory, "generations", "1-deadbeef", "tls.key"), filepath.Join(c.Directory, "README"),
		filepath.Join(c.Directory, ".castellan-1-deadbeef"),
	}
	for _, path := range theirs {
		must(t, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte("theirs"), 0o600))
	}
	d, expected := files.New(c, "", time.Now), ""
	for epoch := activities.Epoch(1); epoch <= 3; epoch++ {
		m := ca.Material(t, epoch)
		// A name that castellan would choose, taken by somebody else.
		taken := filepath.Join(c.Directory, "generations", string('0'+rune(epoch))+"-"+m.Fingerprint[:8])
		must(t, os.MkdirAll(taken, 0o755), os.WriteFile(filepath.Join(taken, "mine"), []byte("theirs"), 0o600))
		theirs = append(theirs, filepath.Join(taken, "mine"))
		_, err := d.Publish(t.Context(), m, expected)
		must(t, err, d.Retire(t.Context(), epoch))
		expected = m.Fingerprint
	}
	for _, path := range theirs {
		if text, err := os.ReadFile(path); err != nil || string(text) != "theirs" {
			t.Errorf("%s: %q, %v", path, text, err)
		}
	}
}

// A program that opened the generation before the flip reads on, undisturbed.
func TestAnOpenGenerationStaysReadable(t *testing.T) {
	c := place(t, files.Generation)
	ca := conformance.NewAuthority(t, "slow")
	d := files.New(c, "", time.Now)
	previous := ca.Material(t, 1)
	_, err := d.Publish(t.Context(), previous, "")
	must(t, err)
	open, err := os.OpenRoot(filepath.Join(c.Directory, "current"))
	must(t, err)
	defer open.Close()
	m := ca.Material(t, 2)
	_, err = d.Publish(t.Context(), m, previous.Fingerprint)
	must(t, err)
	chain, chainErr := open.ReadFile("tls.crt")
	key, keyErr := open.ReadFile("tls.key")
	if chainErr != nil || keyErr != nil || !bytes.Equal(chain, previous.Chain) || !bytes.Equal(key, previous.Key) {
		t.Errorf("the open generation cannot be read on: %v, %v", chainErr, keyErr)
	}
	must(t, d.Retire(t.Context(), 2))
	if _, err := open.ReadFile("tls.key"); err == nil {
		t.Error("after it was retired, the previous key can still be read")
	}
}

func TestRestoreRefusesWhatHasExpired(t *testing.T) {
	c := place(t, files.Combined)
	ca := conformance.NewAuthority(t, "expiry")
	previous, m := ca.Material(t, 1), ca.Material(t, 2)
	d := files.New(c, "", time.Now)
	_, err := d.Publish(t.Context(), previous, "")
	must(t, err)
	_, err = d.Publish(t.Context(), m, previous.Fingerprint)
	must(t, err)
	later := files.New(c, "", func() time.Time { return previous.NotAfter.Add(time.Second) })
	if _, err := later.Restore(t.Context(), 2, 3); err == nil || activities.KindOf(err) != activities.Failed {
		t.Errorf("got %v, want kind %q", err, activities.Failed)
	}
	seen, err := d.Observe(t.Context())
	must(t, err)
	if seen.Fingerprint != m.Fingerprint {
		t.Error("a refused restore changed what is served")
	}
}

// When nothing was there before, a rollback cannot restore, but a late publication must not follow it.
func TestRestoringNothingRaisesTheFence(t *testing.T) {
	c := place(t, files.Combined)
	ca := conformance.NewAuthority(t, "fence")
	d := files.New(c, "", time.Now)
	if _, err := d.Restore(t.Context(), 1, 2); activities.KindOf(err) != activities.NotFound || err == nil {
		t.Fatalf("got %v, want kind %q", err, activities.NotFound)
	}
	if _, err := d.Publish(t.Context(), ca.Material(t, 1), ""); activities.KindOf(err) != activities.Fenced || err == nil {
		t.Errorf("a late publication: got %v, want kind %q", err, activities.Fenced)
	}
}

// The plain layout is not atomic, but a crash between its renames is repaired by repeating.
func TestPlainIsRepairedByRepeating(t *testing.T) {
	c := place(t, files.Plain)
	ca := conformance.NewAuthority(t, "plain")
	d := files.New(c, "", time.Now)
	previous, m := ca.Material(t, 1), ca.Material(t, 2)
	_, err := d.Publish(t.Context(), previous, "")
	must(t, err)
	_, err = d.Publish(t.Context(), m, previous.Fingerprint)
	must(t, err)
	must(t, os.WriteFile(c.Certificate, previous.Chain, 0o644)) // as if the certificate's rename had not happened
	_, err = d.Publish(t.Context(), m, previous.Fingerprint)
	must(t, err)
	chain, key, err := read(c)
	if err != nil || !bytes.Equal(chain, m.Chain) || !bytes.Equal(key, m.Key) {
		t.Errorf("not repaired: %v", err)
	}
	_, err = d.Restore(t.Context(), 2, 3)
	must(t, err)
	chain, key, err = read(c)
	if err != nil || !bytes.Equal(chain, previous.Chain) || !bytes.Equal(key, previous.Key) {
		t.Errorf("not restored: %v", err)
	}
}

func TestCombinedOrder(t *testing.T) {
	for order, first := range map[string]string{files.KeyFirst: "PRIVATE KEY", files.CertFirst: "CERTIFICATE"} {
		c := place(t, files.Combined)
		c.Order, c.IncludeBundle = order, true
		m := conformance.NewAuthority(t, "order").Material(t, 1)
		_, err := files.New(c, "", time.Now).Publish(t.Context(), m, "")
		must(t, err)
		text, err := os.ReadFile(c.Path)
		must(t, err)
		if !strings.HasPrefix(string(text), "-----BEGIN "+first) || !strings.HasSuffix(string(text), string(m.Bundle)) {
			t.Errorf("%s: the file does not begin with %s and end with the bundle", order, first)
		}
	}
}
