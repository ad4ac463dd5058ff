package kubernetes_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"sync"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
)

// memory is a store without a disk. What is under test here is the cluster's side.
type memory struct {
	mu        sync.Mutex
	documents map[string][][]byte // nil: erased
}

func newMemory() *memory { return &memory{documents: map[string][][]byte{}} }

func (m *memory) Read(ctx context.Context, name string) (store.Document, error) {
	m.mu.Lock()
	latest := store.Version(len(m.documents[name]))
	m.mu.Unlock()
	return m.ReadVersion(ctx, name, latest)
}

func (m *memory) ReadVersion(_ context.Context, name string, version store.Version) (store.Document, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	versions := m.documents[name]
	if version == 0 || int(version) > len(versions) || versions[version-1] == nil {
		return store.Document{}, activities.Errorf(activities.NotFound, "read %q: no version %d", name, version)
	}
	return store.Document{Name: name, Version: version, Value: bytes.Clone(versions[version-1])}, nil
}

func (m *memory) Write(_ context.Context, name string, value []byte, expected store.Version) (store.Version, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if int(expected) != len(m.documents[name]) {
		return 0, activities.Errorf(activities.Conflict, "write %q: it has %d versions, not %d", name, len(m.documents[name]), expected)
	}
	m.documents[name] = append(m.documents[name], bytes.Clone(value))
	return expected + 1, nil
}

func (m *memory) Versions(_ context.Context, name string) ([]store.VersionInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var infos []store.VersionInfo
	for i, value := range m.documents[name] {
		infos = append(infos, store.VersionInfo{Version: store.Version(i + 1), Erased: value == nil})
	}
	return infos, nil
}

func (m *memory) Erase(_ context.Context, name string, version store.Version) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.documents[name][version-1] = nil
	return nil
}

func (m *memory) List(_ context.Context, prefix string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	names := slices.Sorted(maps.Keys(m.documents))
	return slices.DeleteFunc(names, func(name string) bool { return !strings.HasPrefix(name, prefix) }), nil
}

// kept returns every byte that is not erased.
func (m *memory) kept() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []byte
	for _, versions := range m.documents {
		all = append(all, bytes.Join(versions, nil)...)
	}
	return all
}

// unquoted undoes what JSON does to bytes, so that a search for a key's text finds it.
func unquoted(text []byte) []byte {
	all := bytes.Clone(text)
	for word := range strings.FieldsFuncSeq(string(text), func(r rune) bool { return r == '"' }) {
		if decoded, err := base64.StdEncoding.DecodeString(word); err == nil {
			all = append(all, decoded...)
		}
	}
	return all
}
