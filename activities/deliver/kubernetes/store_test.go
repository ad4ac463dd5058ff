package kubernetes_test

import (
	"encoding/json"
	"path/filepath"
	"testing"
	"time"

	"castellan.dev/activities/store"
	"castellan.dev/activities/store/file"
	"castellan.dev/internal/keyring"
)

func newStore(t *testing.T) store.Store {
	t.Helper()
	path := filepath.Join(t.TempDir(), "keyring")
	if err := keyring.Create(path); err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := file.Open(filepath.Join(t.TempDir(), "store"), ring, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// kept returns every byte that the store holds, decrypted and as the documents' fields spell it.
func (f *fixture) kept() []byte {
	f.Helper()
	names, err := f.store.List(f.Context(), "")
	if err != nil {
		f.Fatal(err)
	}
	var all []byte
	for _, name := range names {
		versions, err := f.store.Versions(f.Context(), name)
		if err != nil {
			f.Fatal(err)
		}
		for _, version := range versions {
			if version.Erased {
				continue
			}
			document, err := f.store.ReadVersion(f.Context(), name, version.Version)
			if err != nil {
				f.Fatal(err)
			}
			var fields struct{ Chain, Key, Bundle []byte }
			if err := json.Unmarshal(document.Value, &fields); err != nil {
				f.Fatal(err)
			}
			for _, field := range [][]byte{document.Value, fields.Chain, fields.Key, fields.Bundle} {
				all = append(all, field...)
			}
		}
	}
	return all
}
