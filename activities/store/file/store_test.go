package file_test

import (
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
	"castellan.dev/activities/store/file"
	"castellan.dev/internal/keyring"
	"castellan.dev/testsuite/conformance"
	"castellan.dev/testsuite/leak"
)

func TestMain(m *testing.M) {
	conformance.StoreChild(func(spec string) (store.Store, error) {
		if dir, ok := strings.CutPrefix(spec, "flawed:"); ok {
			return newFlawed(dir), nil
		}
		return openAt(spec)
	})
	os.Exit(m.Run())
}

// openAt opens the store below a directory that also holds its keyring.
func openAt(dir string) (*file.Store, error) {
	ring, err := keyring.Load(filepath.Join(dir, "keyring"))
	if err != nil {
		return nil, err
	}
	return file.Open(filepath.Join(dir, "store"), ring, time.Now)
}

// newDir returns a directory with a fresh keyring, and an open store.
func newDir(t *testing.T) (string, *file.Store) {
	t.Helper()
	dir := t.TempDir()
	if err := keyring.Create(filepath.Join(dir, "keyring")); err != nil {
		t.Fatal(err)
	}
	return dir, open(t, dir)
}

func open(t *testing.T, dir string) *file.Store {
	t.Helper()
	s, err := openAt(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestConformance(t *testing.T) {
	conformance.RunStore(t, func(t *testing.T) conformance.StoreFixture {
		dir, s := newDir(t)
		return conformance.StoreFixture{
			Store:  s,
			Reopen: func(t *testing.T) store.Store { return open(t, dir) },
			Spec:   dir,
			Dirs:   []string{filepath.Join(dir, "store")},
		}
	})
}

// versionFile returns the path of a version's file.
func versionFile(dir, name, version string) string {
	return filepath.Join(dir, "store", "documents", name, "@"+strings.Repeat("0", 20-len(version))+version)
}

func write(t *testing.T, s *file.Store, name, value string, expected store.Version) {
	t.Helper()
	if _, err := s.Write(t.Context(), name, []byte(value), expected); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedAndExchangedFilesAreRefused(t *testing.T) {
	tests := map[string]func(t *testing.T, dir string, content []byte) []byte{
		"empty":          func(*testing.T, string, []byte) []byte { return nil },
		"cut in header":  func(_ *testing.T, _ string, c []byte) []byte { return c[:40] },
		"cut in value":   func(_ *testing.T, _ string, c []byte) []byte { return c[:len(c)-1] },
		"header alone":   func(_ *testing.T, _ string, c []byte) []byte { return c[:len(c)-len("value of a")-28] },
		"appended":       func(_ *testing.T, _ string, c []byte) []byte { return append(c, 0) },
		"another format": func(*testing.T, string, []byte) []byte { return []byte(strings.Repeat("x", 400)) },
		"state turned into erased": func(_ *testing.T, _ string, c []byte) []byte {
			return []byte(strings.Replace(string(c), "castellan store 1\nL", "castellan store 1\nE", 1))
		},
		"another document's file": func(t *testing.T, dir string, _ []byte) []byte { return read(t, versionFile(dir, "b", "2")) },
		"another version's file":  func(t *testing.T, dir string, _ []byte) []byte { return read(t, versionFile(dir, "a", "1")) },
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			dir, s := newDir(t)
			for _, document := range []string{"a", "b"} {
				write(t, s, document, "value of "+document, 0)
				write(t, s, document, "value of "+document, 1)
			}
			path := versionFile(dir, "a", "2")
			put(t, path, damage(t, dir, read(t, path)))
			document, err := s.Read(t.Context(), "a")
			if err == nil || activities.KindOf(err) != activities.Failed || document.Value != nil {
				t.Errorf("read: got %d bytes, %v, want %s", len(document.Value), err, activities.Failed)
			}
			if err != nil && !strings.Contains(err.Error(), `document "a" version 2`) {
				t.Errorf("got %q, want the document and version named", err)
			}
			if _, err := s.ReadVersion(t.Context(), "a", 1); err != nil {
				t.Errorf("the undamaged version: %v", err)
			}
			if err := s.Erase(t.Context(), "a", 2); err != nil {
				t.Errorf("erase the damaged version: %v", err)
			}
		})
	}
}

func TestEveryByteOfAFileIsAuthenticated(t *testing.T) {
	dir, s := newDir(t)
	write(t, s, "a", "v", 0)
	path := versionFile(dir, "a", "1")
	whole := read(t, path)
	for i := range whole {
		altered := append([]byte{}, whole...)
		altered[i] ^= 0x40
		put(t, path, altered)
		if document, err := s.Read(t.Context(), "a"); err == nil {
			t.Errorf("byte %d of %d altered: got %d bytes, want an error", i, len(whole), len(document.Value))
		}
	}
	if _, err := s.Versions(t.Context(), "a"); err != nil && activities.KindOf(err) != activities.Failed {
		t.Errorf("versions: got %v", err)
	}
	put(t, path, whole)
	if _, err := s.Read(t.Context(), "a"); err != nil {
		t.Errorf("restored: %v", err)
	}
}

func TestAMissingVersionIsReported(t *testing.T) {
	dir, s := newDir(t)
	for i := range 3 {
		write(t, s, "a", "v", store.Version(i))
	}
	if err := os.Remove(versionFile(dir, "a", "2")); err != nil {
		t.Fatal(err)
	}
	fresh := open(t, dir)
	if _, err := fresh.Versions(t.Context(), "a"); err == nil || activities.KindOf(err) != activities.Failed {
		t.Errorf("got %v, want %s", err, activities.Failed)
	}
	if got, err := fresh.Read(t.Context(), "a"); err != nil || got.Version != 3 {
		t.Errorf("read: got version %d, %v, want 3", got.Version, err)
	}
}

func TestRotatedKeysStayReadableAndForeignOnesAreRefused(t *testing.T) {
	dir, s := newDir(t)
	write(t, s, "a", "one", 0)
	if _, err := keyring.Rotate(filepath.Join(dir, "keyring")); err != nil {
		t.Fatal(err)
	}
	rotated := open(t, dir)
	write(t, rotated, "a", "two", 1)
	for version, want := range map[store.Version]string{1: "one", 2: "two"} {
		if got, err := rotated.ReadVersion(t.Context(), "a", version); err != nil || string(got.Value) != want {
			t.Errorf("version %d: got %v, want its value", version, err)
		}
	}
	// A process that still has the earlier ring says so instead of calling the file damaged.
	if _, err := s.Read(t.Context(), "a"); !errors.Is(err, keyring.ErrUnknownKey) || activities.KindOf(err) != activities.Denied {
		t.Errorf("got %v, want %v of kind %s", err, keyring.ErrUnknownKey, activities.Denied)
	}
}

func TestOnlyTheOwnerMayEnter(t *testing.T) {
	dir, s := newDir(t)
	write(t, s, "deep/er/a", "v", 0)
	write(t, s, "deep/er/a", "w", 1)
	if err := s.Erase(t.Context(), "deep/er/a", 1); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(filepath.Join(dir, "store"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: got mode %#o, want nothing for others", path, info.Mode().Perm())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "store"), 0o750); err != nil {
		t.Fatal(err)
	}
	if _, err := openAt(dir); err == nil || activities.KindOf(err) != activities.Denied {
		t.Errorf("open a directory that the group may enter: got %v, want %s", err, activities.Denied)
	}
}

func TestLinksOutOfTheDirectoryAreNotFollowed(t *testing.T) {
	dir, s := newDir(t)
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "store", "documents", "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Write(t.Context(), "a/b", []byte("v"), 0); err == nil {
		t.Error("write through a link: want an error")
	}
	if entries, err := os.ReadDir(outside); err != nil || len(entries) != 0 {
		t.Errorf("got %v, %v outside, want nothing", entries, err)
	}
}

func TestErasedValuesCannotBeReadEvenWithTheKeyring(t *testing.T) {
	dir, s := newDir(t)
	write(t, s, "a", "value", 0)
	path := versionFile(dir, "a", "1")
	before := read(t, path)
	held, err := os.Open(path) // what a deleted file's blocks still say
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := s.Erase(t.Context(), "a", 1); err != nil {
		t.Fatal(err)
	}
	if info, err := held.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("the erased file has %d bytes left, %v", info.Size(), err)
	}
	// The key in a tombstone is not the one that sealed the value.
	put(t, path, append(read(t, path), before[len(before)-40:]...))
	if _, err := s.Read(t.Context(), "a"); err == nil || activities.KindOf(err) != activities.NotFound {
		t.Errorf("got %v, want %s", err, activities.NotFound)
	}
}

func TestWhatACrashLeftIsCleanedUp(t *testing.T) {
	dir, s := newDir(t)
	write(t, s, "erased", "value", 0)
	write(t, s, "kept", "value", 0)
	root := filepath.Join(dir, "store")
	for _, crash := range []func() error{
		// Killed while it wrote: half a temporary file.
		func() error { return os.WriteFile(filepath.Join(root, "temporary", "half"), []byte("half"), 0o600) },
		// Killed after the link: the version has a temporary name as well.
		func() error {
			return os.Link(versionFile(dir, "kept", "1"), filepath.Join(root, "temporary", "linked"))
		},
		// Killed before the tombstone took the version's place.
		func() error { return os.Link(versionFile(dir, "kept", "1"), filepath.Join(root, "erasing", "early")) },
		// Killed after it.
		func() error { return os.WriteFile(filepath.Join(root, "erasing", "late"), []byte("value"), 0o600) },
	} {
		if err := crash(); err != nil {
			t.Fatal(err)
		}
	}
	late, err := os.Open(filepath.Join(root, "erasing", "late"))
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	after := open(t, dir)
	for _, name := range []string{"temporary", "erasing"} {
		if entries, err := os.ReadDir(filepath.Join(root, name)); err != nil || len(entries) != 0 {
			t.Errorf("%s: got %v, %v, want it empty", name, entries, err)
		}
	}
	if info, err := late.Stat(); err != nil || info.Size() != 0 {
		t.Errorf("what was to be erased has %d bytes left, %v", info.Size(), err)
	}
	for _, name := range []string{"kept", "erased"} {
		if got, err := after.Read(t.Context(), name); err != nil || string(got.Value) != "value" {
			t.Errorf("%s: got %v, want its value", name, err)
		}
	}
}

func TestOpeningDoesNotDisturbALiveWriter(t *testing.T) {
	dir, s := newDir(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 50 {
			if _, err := s.Write(t.Context(), "kept", []byte("v"), store.Version(i)); err != nil {
				t.Error(err)
				return
			}
			if _, err := s.Write(t.Context(), "a", []byte("v"), store.Version(i)); err != nil {
				t.Error(err)
				return
			}
			if err := s.Erase(t.Context(), "a", store.Version(i+1)); err != nil {
				t.Error(err)
				return
			}
		}
		if infos, err := s.Versions(t.Context(), "kept"); err != nil || len(infos) != 50 {
			t.Errorf("got %d versions, %v, want 50", len(infos), err)
		}
		for i := range 50 {
			if got, err := s.ReadVersion(t.Context(), "kept", store.Version(i+1)); err != nil || string(got.Value) != "v" {
				t.Errorf("version %d: %v", i+1, err)
			}
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
			other, err := openAt(dir)
			if err != nil {
				t.Error(err)
				<-done
				return
			}
			other.Close()
		}
	}
}

func TestKeyMaterialIsNotOnDisk(t *testing.T) {
	dir, s := newDir(t)
	write(t, s, "a", "value", 0)
	var keys []leak.Canary
	for part := range strings.SplitSeq(string(read(t, filepath.Join(dir, "keyring"))), `"`) {
		if key, err := base64.StdEncoding.DecodeString(part); err == nil && len(key) == 32 {
			keys = append(keys, leak.New("keyring key", string(key)))
		}
	}
	if len(keys) != 1 {
		t.Fatalf("found %d keys in the keyring, want 1", len(keys))
	}
	leak.Check(t, keys, leak.Dir(filepath.Join(dir, "store")))
}

func TestConfigReportsEveryProblem(t *testing.T) {
	tests := map[string]struct {
		config file.Config
		want   string
	}{
		"complete":               {file.Config{Dir: "/var/lib/castellan/store", KeyFile: "/etc/castellan/keyring"}, ""},
		"a sibling of the store": {file.Config{Dir: "/state/store", KeyFile: "/state/store.keyring"}, ""},
		"nothing":                {file.Config{}, "dir keyFile"},
		"relative paths":         {file.Config{Dir: "store", KeyFile: "keyring"}, "dir keyFile"},
		"the key in the store":   {file.Config{Dir: "/state/store", KeyFile: "/state/store/sub/../keyring"}, "keyFile"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var fields []string
			test.config.Check(func(field, _, _ string) { fields = append(fields, field) })
			if got := strings.Join(fields, " "); got != test.want {
				t.Errorf("got problems in %q, want %q", got, test.want)
			}
		})
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
