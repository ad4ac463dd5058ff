package file_test

import (
	"context"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
	"castellan.dev/testsuite/conformance"
)

// flawVariable names the flaw under test in the test binary's own child.
const flawVariable = "CASTELLAN_STORE_FLAW"

// flaws are what a careless store gets wrong, and the check that must catch it.
var flaws = map[string]string{
	"writes without looking":         "a write needs the latest version",
	"looks, then writes":             "one of many concurrent writers wins",
	"calls a conflict transient":     "a write needs the latest version",
	"keeps the caller's slice":       "values come back as written",
	"does not erase":                 "erased values are gone and their numbers stay taken",
	"reuses erased numbers":          "erased values are gone and their numbers stay taken",
	"takes any name":                 "invalid names are refused",
	"lists paths instead of strings": "lists give names by prefix",
	"writes in plain":                "nothing is plain at rest",
	"tears a write":                  "a killed writer loses and tears nothing",
	"tears an erasure":               "a killed eraser leaves whole or erased versions",
	"acknowledges early":             "a killed writer loses and tears nothing",
	"ignores cancellation":           "a cancelled call changes nothing",
	"remembers what it read":         "another store sees every write",
}

// TestTheSuiteCatchesBrokenStores is the suite's negative control: it runs the suite on stores that
// each have one flaw, in a child process, and wants the check named above to fail there.
func TestTheSuiteCatchesBrokenStores(t *testing.T) {
	for flaw, check := range flaws {
		t.Run(flaw, func(t *testing.T) {
			output, err := runFlawed(t, flaw, "/^"+strings.ReplaceAll(check, " ", "_")+"$")
			var exit *exec.ExitError
			if !errors.As(err, &exit) || !strings.Contains(output, "--- FAIL: TestFlawedStore/"+strings.ReplaceAll(check, " ", "_")) {
				t.Errorf("the check passed, or did not run: %v\n%s", err, output)
			}
		})
	}
	t.Run("no flaw", func(t *testing.T) {
		if output, err := runFlawed(t, "none", ""); err != nil {
			t.Errorf("the suite failed a store without a flaw: %v\n%s", err, output)
		}
	})
}

func runFlawed(t *testing.T, flaw, checks string) (string, error) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(program, "-test.run=^TestFlawedStore$"+checks)
	command.Env = append(os.Environ(), flawVariable+"="+flaw)
	output, err := command.CombinedOutput()
	return string(output), err
}

// TestFlawedStore runs the suite on a flawed store when it is told a flaw.
func TestFlawedStore(t *testing.T) {
	if os.Getenv(flawVariable) == "" {
		return
	}
	conformance.RunStore(t, func(t *testing.T) conformance.StoreFixture {
		dir := t.TempDir()
		fixture := conformance.StoreFixture{
			Store:  newFlawed(dir),
			Reopen: func(*testing.T) store.Store { return newFlawed(dir) },
			Spec:   "flawed:" + dir,
		}
		if os.Getenv(flawVariable) == "writes in plain" {
			fixture.Dirs = []string{dir}
		}
		return fixture
	})
}

// flawed is a store in plain files that is right but for the flaw that it is told.
type flawed struct {
	dir, flaw string
	pending   func()

	mu    sync.Mutex
	cache map[string]store.Document
}

func newFlawed(dir string) *flawed {
	return &flawed{dir: dir, flaw: os.Getenv(flawVariable), cache: map[string]store.Document{}}
}

func (f *flawed) path(name string, version store.Version) string {
	return filepath.Join(f.dir, hex.EncodeToString([]byte(name)), strconv.Itoa(int(version)))
}

func (f *flawed) check(name string) error {
	valid := name != "" && len(name) < 200
	for segment := range strings.SplitSeq(name, "/") {
		valid = valid && segment != "" && segment != "." && segment != ".." &&
			strings.Trim(segment, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == ""
	}
	if !valid && f.flaw != "takes any name" {
		return activities.Errorf(activities.Invalid, "name %q", name)
	}
	return nil
}

func (f *flawed) latest(name string) store.Version {
	for version := store.Version(1); ; version++ {
		content, err := os.ReadFile(f.path(name, version))
		if err != nil || f.flaw == "reuses erased numbers" && string(content) == "erased" {
			return version - 1
		}
	}
}

func (f *flawed) Read(ctx context.Context, name string) (store.Document, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if document, ok := f.cache[name]; ok && f.flaw == "remembers what it read" {
		return document, nil
	}
	document, err := f.ReadVersion(ctx, name, f.latest(name))
	if err == nil {
		f.cache[name] = document
	}
	return document, err
}

func (f *flawed) ReadVersion(ctx context.Context, name string, version store.Version) (store.Document, error) {
	if err := f.check(name); err != nil {
		return store.Document{}, err
	}
	if ctx.Err() != nil {
		return store.Document{}, ctx.Err()
	}
	content, err := os.ReadFile(f.path(name, version))
	if err != nil || string(content) == "erased" {
		return store.Document{}, activities.Errorf(activities.NotFound, "version %d", version)
	}
	if kept, ok := f.cache["slice of "+name]; ok {
		content = kept.Value
	}
	return store.Document{Name: name, Version: version, Value: content, Written: time.Now()}, nil
}

func (f *flawed) Write(ctx context.Context, name string, value []byte, expected store.Version) (store.Version, error) {
	if err := f.check(name); err != nil {
		return 0, err
	}
	if ctx.Err() != nil && f.flaw != "ignores cancellation" {
		return 0, ctx.Err()
	}
	conflict := activities.Errorf(activities.Conflict, "expected %d", expected)
	if f.flaw == "calls a conflict transient" {
		conflict.Kind = activities.Transient
	}
	latest := f.latest(name)
	if f.flaw == "writes without looking" {
		expected = latest
	}
	if latest != expected && f.flaw != "acknowledges early" {
		return 0, conflict
	}
	path := f.path(name, expected+1)
	_ = os.MkdirAll(filepath.Dir(path), 0o700)
	switch f.flaw {
	case "looks, then writes":
		time.Sleep(time.Millisecond) // what a network in between does
		return expected + 1, os.WriteFile(path, value, 0o600)
	case "tears a write":
		file, err := os.Create(path)
		for chunk := range slices.Chunk(value, 2) {
			_, _ = file.Write(chunk)
		}
		return expected + 1, errors.Join(err, file.Close())
	case "acknowledges early":
		// The effect follows only with the next call: a crash in between loses it.
		pending := f.pending
		f.pending = func() { _ = os.WriteFile(path, value, 0o600) }
		if pending != nil {
			pending()
		}
		return expected + 1, nil
	case "keeps the caller's slice":
		f.cache["slice of "+name] = store.Document{Value: value}
	}
	temporary := path + ".t" + strconv.FormatInt(time.Now().UnixNano(), 36)
	_ = os.WriteFile(temporary, value, 0o600)
	defer os.Remove(temporary)
	if err := os.Link(temporary, path); errors.Is(err, fs.ErrExist) {
		return 0, conflict
	}
	return expected + 1, nil
}

func (f *flawed) Versions(_ context.Context, name string) ([]store.VersionInfo, error) {
	var infos []store.VersionInfo
	for version := store.Version(1); version <= f.latest(name); version++ {
		content, _ := os.ReadFile(f.path(name, version))
		infos = append(infos, store.VersionInfo{Version: version, Written: time.Now(), Erased: string(content) == "erased"})
	}
	return infos, f.check(name)
}

func (f *flawed) Erase(ctx context.Context, name string, version store.Version) error {
	if f.flaw == "does not erase" || f.check(name) != nil || ctx.Err() != nil {
		return errors.Join(f.check(name), ctx.Err())
	}
	if _, err := os.Stat(f.path(name, version)); err != nil {
		return activities.Errorf(activities.NotFound, "version %d", version)
	}
	if f.flaw == "tears an erasure" {
		for size := int64(16000); size > 6; size -= 4 {
			_ = os.Truncate(f.path(name, version), size)
		}
		return os.WriteFile(f.path(name, version), []byte("erased"), 0o600)
	}
	temporary := f.path(name, version) + ".e"
	return errors.Join(os.WriteFile(temporary, []byte("erased"), 0o600), os.Rename(temporary, f.path(name, version)))
}

func (f *flawed) List(_ context.Context, prefix string) ([]string, error) {
	entries, err := os.ReadDir(f.dir)
	var names []string
	for _, entry := range entries {
		name, _ := hex.DecodeString(entry.Name())
		below := prefix == "" || string(name) == prefix || strings.HasPrefix(string(name), strings.TrimSuffix(prefix, "/")+"/")
		if f.flaw == "lists paths instead of strings" && below || f.flaw != "lists paths instead of strings" && strings.HasPrefix(string(name), prefix) {
			names = append(names, string(name))
		}
	}
	slices.Sort(names)
	return names, err
}
