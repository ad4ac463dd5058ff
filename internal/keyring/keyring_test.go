package keyring_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"castellan.dev/internal/keyring"
	"castellan.dev/internal/secret"
)

// ringFile creates a ring in a fresh directory.
func ringFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyring.json")
	if err := keyring.Create(path); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t *testing.T, path string) *keyring.Keyring {
	t.Helper()
	ring, err := keyring.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

func TestSealedBytesOpenOnlyUnaltered(t *testing.T) {
	ring := load(t, ringFile(t))
	id, sealed := ring.Seal([]byte("value"), []byte("place"))
	if got, err := ring.Open(id, sealed, []byte("place")); err != nil || string(got) != "value" {
		t.Fatalf("open: got %q, %v", got, err)
	}
	for i := range sealed {
		altered := slices.Clone(sealed)
		altered[i] ^= 1
		if _, err := ring.Open(id, altered, []byte("place")); !errors.Is(err, keyring.ErrNotAuthentic) {
			t.Fatalf("byte %d flipped: got %v, want %v", i, err, keyring.ErrNotAuthentic)
		}
	}
	for name, short := range map[string][]byte{"empty": nil, "only a nonce": sealed[:12], "cut": sealed[:len(sealed)-1]} {
		if _, err := ring.Open(id, short, []byte("place")); !errors.Is(err, keyring.ErrNotAuthentic) {
			t.Errorf("%s: got %v, want %v", name, err, keyring.ErrNotAuthentic)
		}
	}
	if _, err := ring.Open(id, sealed, []byte("another place")); !errors.Is(err, keyring.ErrNotAuthentic) {
		t.Errorf("bound elsewhere: got %v, want %v", err, keyring.ErrNotAuthentic)
	}
	if _, err := ring.Open("k-other", sealed, []byte("place")); !errors.Is(err, keyring.ErrUnknownKey) {
		t.Errorf("other key: got %v, want %v", err, keyring.ErrUnknownKey)
	}
}

func TestRotationKeepsEarlierKeysReadable(t *testing.T) {
	path := ringFile(t)
	before := load(t, path)
	firstID, sealed := before.Seal([]byte("value"), nil)
	rotated, err := keyring.Rotate(path)
	if err != nil {
		t.Fatal(err)
	}
	after := load(t, path)
	if after.Current() != rotated || rotated == firstID {
		t.Errorf("current key: got %q, want the rotated %q", after.Current(), rotated)
	}
	if got, err := after.Open(firstID, sealed, nil); err != nil || string(got) != "value" {
		t.Errorf("sealed before the rotation: got %q, %v", got, err)
	}
	added, err := keyring.Add(t.Context(), path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got := load(t, path).Current(); got != rotated {
		t.Errorf("after Add: current is %q, want %q still", got, rotated)
	}
	if err := keyring.Promote(path, added); err != nil {
		t.Fatal(err)
	}
	if got := load(t, path); got.Current() != added || len(got.IDs()) != 3 {
		t.Errorf("after Promote: got current %q of %q, want %q of three", got.Current(), got.IDs(), added)
	}
	if err := keyring.Promote(path, "k-nobody"); err == nil {
		t.Error("promoting an absent key: want an error")
	}
}

func TestCreateNeverReplacesAndLeavesNothingBehind(t *testing.T) {
	path := ringFile(t)
	id := load(t, path).Current()
	if err := keyring.Create(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("create twice: got %v, want %v", err, fs.ErrExist)
	}
	if got := load(t, path).Current(); got != id {
		t.Errorf("the second create changed the key from %q to %q", id, got)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
	// What a crash between writing and renaming leaves behind neither blocks nor survives the next change.
	if err := os.WriteFile(path+".next", []byte("left behind"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Rotate(path); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("got %v, %v, want the keyring alone", entries, err)
	}
}

func TestConcurrentRotationsLoseNoKey(t *testing.T) {
	path := ringFile(t)
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			if _, err := keyring.Rotate(path); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	if got := len(load(t, path).IDs()); got != 9 {
		t.Errorf("got %d keys, want 9", got)
	}
}

func TestLoadRefusesWhatItCannotTrust(t *testing.T) {
	key := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))
	good := `{"current":"a","keys":[{"id":"a","key":"` + key + `"}]}`
	tests := map[string]struct {
		content string
		mode    os.FileMode
		want    string // empty: it loads
	}{
		"a good file":                {good, 0o600, ""},
		"a read-only file":           {good, 0o400, ""},
		"readable by the group":      {good, 0o640, "want 0600"},
		"readable by others":         {good, 0o604, "want 0600"},
		"empty":                      {"", 0o600, "not a keyring document"},
		"not JSON":                   {key, 0o600, "not a keyring document"},
		"an unknown field":           {`{"current":"a","secret":"` + key + `"}`, 0o600, "not a keyring document"},
		"a key of another type":      {`{"current":"a","keys":[{"id":"a","key":["` + key + `"]}]}`, 0o600, "not a keyring document"},
		"two documents":              {good + good, 0o600, "more than one"},
		"no keys":                    {`{"current":"a","keys":[]}`, 0o600, "current key"},
		"a current key that is away": {strings.Replace(good, `"current":"a"`, `"current":"b"`, 1), 0o600, `current key "b"`},
		"the same id twice":          {`{"current":"a","keys":[{"id":"a","key":"` + key + `"},{"id":"a","key":"` + key + `"}]}`, 0o600, "twice"},
		"a short key":                {`{"current":"a","keys":[{"id":"a","key":"` + key[:20] + `"}]}`, 0o600, "want 32"},
		"a key that is no base64":    {`{"current":"a","keys":[{"id":"a","key":"!` + key + `"}]}`, 0o600, "base64"},
		"key and wrapped":            {`{"current":"a","keys":[{"id":"a","key":"` + key + `","wrapped":"x"}]}`, 0o600, "either key or wrapped"},
		"a wrapped key":              {`{"current":"a","keys":[{"id":"a","wrapped":"vault:v1:x"}]}`, 0o600, "no unwrapper"},
		"an id with odd characters":  {`{"current":"A/b","keys":[{"id":"A/b","key":"` + key + `"}]}`, 0o600, "id is not"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ring")
			if err := os.WriteFile(path, []byte(test.content), test.mode); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(path, test.mode); err != nil {
				t.Fatal(err)
			}
			_, err := keyring.Load(path)
			if test.want == "" {
				if err != nil {
					t.Errorf("got %v, want no error", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want an error with %q", err, test.want)
			}
			if err != nil && strings.Contains(err.Error(), key[:12]) {
				t.Error("the error quotes the key")
			}
		})
	}
}

// reversing wraps by writing the key backwards, and counts its calls.
type reversing struct{ unwraps int }

func (r *reversing) Wrap(_ context.Context, key secret.Bytes) (string, error) {
	reversed := slices.Clone(key.Reveal())
	slices.Reverse(reversed)
	return base64.StdEncoding.EncodeToString(reversed), nil
}

func (r *reversing) Unwrap(_ context.Context, wrapped string) (secret.Bytes, error) {
	r.unwraps++
	key, err := base64.StdEncoding.DecodeString(wrapped)
	slices.Reverse(key)
	return secret.New(key), err
}

func TestWrappedKeysAreUnwrappedOnceAtStart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ring")
	wrapper := &reversing{}
	if err := keyring.CreateWrapped(t.Context(), path, wrapper); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Add(t.Context(), path, wrapper); err != nil {
		t.Fatal(err)
	}
	if _, err := keyring.Add(t.Context(), path, nil); err == nil {
		t.Error("adding a plain key to a wrapped ring: want an error")
	}
	if _, err := keyring.Rotate(path); err == nil {
		t.Error("rotating a wrapped ring in one step: want an error")
	}
	ring, err := keyring.LoadWrapped(t.Context(), path, wrapper)
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		id, sealed := ring.Seal([]byte("v"), nil)
		if _, err := ring.Open(id, sealed, nil); err != nil {
			t.Fatal(err)
		}
	}
	if wrapper.unwraps != 2 {
		t.Errorf("got %d unwraps, want one per key", wrapper.unwraps)
	}
	plain := ringFile(t)
	if _, err := keyring.LoadWrapped(t.Context(), plain, wrapper); err == nil {
		t.Error("a plain ring in production mode: want an error")
	}
	content, _ := os.ReadFile(path)
	var doc struct{ Keys []map[string]string }
	if json.Unmarshal(content, &doc); len(doc.Keys) != 2 || doc.Keys[0]["key"] != "" {
		t.Error("the file of a wrapped ring holds a plain key")
	}
}
