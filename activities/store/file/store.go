package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
	"castellan.dev/internal/keyring"
)

// The three directories of a store.
const (
	documents = "documents" // name/@version
	temporary = "temporary" // files being written
	erasing   = "erasing"   // links to files being overwritten
)

// maxValue bounds a value; the stores that may replace this one allow no more.
const maxValue = 1 << 20

// Store is a directory of encrypted documents. It is safe for concurrent use, also by other processes
// with a Store of their own on the same directory.
type Store struct {
	root *os.Root
	ring *keyring.Keyring
	now  func() time.Time

	mu    sync.Mutex
	known map[string]store.Version // the latest version of a document that is known to be durable
}

var _ store.Store = (*Store)(nil)

// Open opens the store in dir and makes it when it is absent. What a crash left half done is removed.
// A directory that others may enter is refused.
func Open(dir string, ring *keyring.Keyring, now func() time.Time) (*Store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, failure("open store", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, failure("open store", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, activities.Errorf(activities.Denied, "open store %q: its mode is %#o, want 0700", dir, info.Mode().Perm())
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, failure("open store", err)
	}
	s := &Store{root: root, ring: ring, now: now, known: map[string]store.Version{}}
	for _, name := range []string{documents, temporary, erasing} {
		if err := root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, failure("open store", errors.Join(err, root.Close()))
		}
	}
	if err := errors.Join(s.sync("."), s.recover()); err != nil {
		return nil, failure("open store", errors.Join(err, root.Close()))
	}
	return s, nil
}

// Close releases the directory.
func (s *Store) Close() error { return s.root.Close() }

// Read returns the latest version.
func (s *Store) Read(ctx context.Context, name string) (store.Document, error) {
	if err := ready(ctx, name); err != nil {
		return store.Document{}, err
	}
	latest, err := s.latest(name)
	if err != nil {
		return store.Document{}, failure("read document "+name, err)
	}
	if latest == 0 {
		return store.Document{}, activities.Errorf(activities.NotFound, "read document %q: it has no version", name)
	}
	return s.read(name, latest)
}

// ReadVersion returns one version.
func (s *Store) ReadVersion(ctx context.Context, name string, version store.Version) (store.Document, error) {
	if err := ready(ctx, name); err != nil {
		return store.Document{}, err
	}
	if latest, err := s.latest(name); err != nil {
		return store.Document{}, failure("read document "+name, err)
	} else if version == 0 || version > latest {
		return store.Document{}, activities.Errorf(activities.NotFound, "read document %q: it has no version %d", name, version)
	}
	return s.read(name, version)
}

// read returns a version that exists.
func (s *Store) read(name string, version store.Version) (store.Document, error) {
	h, value, err := s.decode(name, version)
	if err != nil {
		// An eraser overwrites a file that we may have open; where it did, its tombstone answers now.
		h, value, err = s.decode(name, version)
	}
	if err != nil {
		return store.Document{}, unreadable(name, version, err)
	}
	if h.state == stateErased {
		return store.Document{}, activities.Errorf(activities.NotFound, "read document %q: version %d is erased", name, version)
	}
	return store.Document{Name: name, Version: version, Value: value, Written: h.written}, nil
}

func (s *Store) decode(name string, version store.Version) (header, []byte, error) {
	content, err := s.root.ReadFile(versionPath(name, version))
	if err != nil {
		return header{}, nil, err
	}
	return decodeValue(s.ring, name, version, content)
}

// Versions lists a document's versions, oldest first.
func (s *Store) Versions(ctx context.Context, name string) ([]store.VersionInfo, error) {
	if err := ready(ctx, name); err != nil {
		return nil, err
	}
	latest, err := s.latest(name)
	if err != nil {
		return nil, failure("list versions of "+name, err)
	}
	var infos []store.VersionInfo
	for version := store.Version(1); version <= latest; version++ {
		h, err := s.readHeader(name, version)
		if err != nil {
			h, err = s.readHeader(name, version) // as in read
		}
		if err != nil {
			return nil, unreadable(name, version, err)
		}
		infos = append(infos, store.VersionInfo{Version: version, Written: h.written, Erased: h.state == stateErased})
	}
	return infos, nil
}

// readHeader returns the authentic header of one version.
func (s *Store) readHeader(name string, version store.Version) (header, error) {
	f, err := s.root.Open(versionPath(name, version))
	if err != nil {
		return header{}, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, int64(maxHeader)))
	if err != nil {
		return header{}, err
	}
	h, err := decodeHeader(content)
	if err != nil {
		return h, err
	}
	dataKey, err := h.open(s.ring, name, version)
	clear(dataKey)
	return h, err
}

// List returns the names that begin with prefix, sorted; a document whose versions are all erased is
// still listed, because its numbers are taken.
func (s *Store) List(ctx context.Context, prefix string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, failure("list documents", err)
	}
	if err := checkPrefix(prefix); err != nil {
		return nil, err
	}
	var names []string
	if err := s.walk(documents, prefix, &names); err != nil {
		return nil, failure("list documents", err)
	}
	slices.Sort(names)
	return names, nil
}

// walk appends the documents in and below dir that begin with prefix.
func (s *Store) walk(dir, prefix string, names *[]string) error {
	entries, err := s.entries(dir)
	if err != nil {
		return err
	}
	name := strings.TrimPrefix(strings.TrimPrefix(dir, documents), "/")
	isDocument := func(e fs.DirEntry) bool { _, ok := parseVersion(e.Name()); return ok }
	if name != "" && strings.HasPrefix(name, prefix) && slices.ContainsFunc(entries, isDocument) {
		*names = append(*names, name)
	}
	for _, e := range entries {
		below := path.Join(name, e.Name()) + "/"
		if !e.IsDir() || (!strings.HasPrefix(below, prefix) && !strings.HasPrefix(prefix, below)) {
			continue
		}
		if err := s.walk(path.Join(dir, e.Name()), prefix, names); err != nil {
			return err
		}
	}
	return nil
}

// latest returns the number of a document's latest version, which is durable when it returns.
func (s *Store) latest(name string) (store.Version, error) {
	s.mu.Lock()
	known, seen := s.known[name]
	s.mu.Unlock()
	latest := known
	if !seen {
		entries, err := s.entries(directory(name))
		if err != nil {
			return 0, err
		}
		for _, e := range entries {
			if version, ok := parseVersion(e.Name()); ok {
				latest = max(latest, version)
			}
		}
	}
	// Numbers have no gaps, so whatever other processes added follows directly.
	for {
		_, err := s.root.Lstat(versionPath(name, latest+1))
		if errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return 0, err
		}
		latest++
	}
	if latest == known {
		return latest, nil
	}
	if err := s.sync(directory(name)); err != nil {
		return 0, err
	}
	s.learn(name, latest)
	return latest, nil
}

// learn remembers that a version is durable.
func (s *Store) learn(name string, version store.Version) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.known[name] = max(s.known[name], version)
}

// entries lists a directory of the store; an absent one is empty.
func (s *Store) entries(dir string) ([]fs.DirEntry, error) {
	f, err := s.root.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.ReadDir(-1)
}

// sync makes the entries of a directory durable.
func (s *Store) sync(dir string) error {
	f, err := s.root.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// ready checks what every call on one document checks.
func ready(ctx context.Context, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return failure("use document "+name, err)
	}
	return nil
}

// failure classifies an error of the filesystem.
func failure(act string, err error) error {
	kind := activities.Transient
	if errors.Is(err, fs.ErrPermission) {
		kind = activities.Denied
	}
	return activities.Errorf(kind, "%s: %w", act, err)
}

// unreadable classifies what is wrong with a version's file.
func unreadable(name string, version store.Version, err error) error {
	act := fmt.Sprintf("read document %q version %d", name, version)
	switch {
	case errors.Is(err, keyring.ErrUnknownKey):
		return activities.Errorf(activities.Denied, "%s: %w", act, err)
	case errors.Is(err, keyring.ErrNotAuthentic), errors.Is(err, errMalformed):
		return activities.Errorf(activities.Failed, "%s: its file is damaged or not the one that was written: %w", act, err)
	case errors.Is(err, fs.ErrNotExist):
		return activities.Errorf(activities.Failed, "%s: its file is missing although later versions exist", act)
	}
	return failure(act, err)
}
