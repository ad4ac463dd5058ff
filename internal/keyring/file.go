package keyring

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"castellan.dev/internal/secret"
)

const maxFileSize = 1 << 20

// Unwrapper turns a wrapped key back into the key.
type Unwrapper interface {
	Unwrap(ctx context.Context, wrapped string) (secret.Bytes, error)
}

// Wrapper also wraps: only the commands that create or extend a ring need it, never a worker.
type Wrapper interface {
	Unwrapper
	Wrap(ctx context.Context, key secret.Bytes) (string, error)
}

// document is the file: JSON, because its decoder's errors never quote a string's value.
type document struct {
	Current string  `json:"current"`
	Keys    []entry `json:"keys"`
}

// entry is one key, either itself or wrapped.
type entry struct {
	ID      string `json:"id"`
	Key     string `json:"key,omitempty"`     // base64
	Wrapped string `json:"wrapped,omitempty"` // what the Wrapper returned
}

// Load reads a ring whose file holds the keys themselves. A file that others may read is refused, and
// so is one with wrapped keys.
func Load(path string) (*Keyring, error) {
	return load(context.Background(), path, nil)
}

// LoadWrapped reads a ring whose file holds wrapped keys and unwraps each of them once. A file with a
// plain key is refused, so that production cannot slip back to one.
func LoadWrapped(ctx context.Context, path string, unwrapper Unwrapper) (*Keyring, error) {
	return load(ctx, path, unwrapper)
}

// Create writes a ring with one fresh key to path, which must not exist yet. When it returns nil the
// file survives a crash of the machine; on an error that is fs.ErrExist the file was there already.
func Create(path string) error { return create(context.Background(), path, nil) }

// CreateWrapped is Create for a ring of wrapped keys.
func CreateWrapped(ctx context.Context, path string, wrapper Wrapper) error {
	return create(ctx, path, wrapper)
}

// Add appends a fresh key that does not seal yet and returns its id.
func Add(ctx context.Context, path string, wrapper Wrapper) (id string, err error) {
	err = edit(path, func(doc *document) error {
		added, err := fresh(ctx, wrapper)
		if err != nil {
			return err
		}
		if wrapped := doc.Keys[0].Wrapped != ""; wrapped != (wrapper != nil) {
			return fmt.Errorf("the file's keys are wrapped: %t, the key to add: %t", wrapped, wrapper != nil)
		}
		id, doc.Keys = added.ID, append(doc.Keys, added)
		return nil
	})
	return id, err
}

// Promote makes the named key the current one.
func Promote(path, id string) error {
	return edit(path, func(doc *document) error {
		doc.Current = id
		return nil
	})
}

// Rotate adds a fresh key to a ring of plain keys and makes it current; the others stay readable.
func Rotate(path string) (id string, err error) {
	err = edit(path, func(doc *document) error {
		if doc.Keys[0].Wrapped != "" {
			return errors.New("its keys are wrapped: add and promote instead")
		}
		added, err := fresh(context.Background(), nil)
		if err != nil {
			return err
		}
		id, doc.Current, doc.Keys = added.ID, added.ID, append(doc.Keys, added)
		return nil
	})
	return id, err
}

// Info is what may be told of a key.
type Info struct {
	ID      string `json:"id"`
	Current bool   `json:"current"` // it seals
	Wrapped bool   `json:"wrapped"`
}

// List tells which keys the file holds, in its order, without unwrapping any.
func List(path string) ([]Info, error) {
	doc, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("list keyring %q: %w", path, err)
	}
	var list []Info
	for _, e := range doc.Keys {
		list = append(list, Info{ID: e.ID, Current: e.ID == doc.Current, Wrapped: e.Wrapped != ""})
	}
	return list, nil
}

func load(ctx context.Context, path string, unwrapper Unwrapper) (*Keyring, error) {
	doc, err := read(path)
	if err != nil {
		return nil, fmt.Errorf("load keyring %q: %w", path, err)
	}
	keys := make(map[string]secret.Bytes, len(doc.Keys))
	defer func() {
		for _, key := range keys {
			key.Destroy()
		}
	}()
	for _, e := range doc.Keys {
		if keys[e.ID], err = e.reveal(ctx, unwrapper); err != nil {
			return nil, fmt.Errorf("load keyring %q: key %q: %w", path, e.ID, err)
		}
	}
	ring, err := New(doc.Current, keys)
	if err != nil {
		return nil, fmt.Errorf("load keyring %q: %w", path, err)
	}
	return ring, nil
}

// reveal returns the entry's key.
func (e entry) reveal(ctx context.Context, unwrapper Unwrapper) (secret.Bytes, error) {
	switch {
	case unwrapper == nil && e.Wrapped != "":
		return secret.Bytes{}, errors.New("it is wrapped, and no unwrapper is configured")
	case unwrapper == nil:
		key, err := base64.StdEncoding.DecodeString(e.Key)
		if err != nil {
			return secret.Bytes{}, errors.New("it is not standard base64")
		}
		return secret.New(key), nil
	case e.Key != "":
		return secret.Bytes{}, errors.New("it is not wrapped, as production demands")
	}
	return unwrapper.Unwrap(ctx, e.Wrapped)
}

// fresh makes an entry with a random key and a random id.
func fresh(ctx context.Context, wrapper Wrapper) (entry, error) {
	key, id := make([]byte, keySize), make([]byte, 6)
	rand.Read(key)
	rand.Read(id)
	defer clear(key)
	e := entry{ID: "k-" + hex.EncodeToString(id)}
	if wrapper == nil {
		e.Key = base64.StdEncoding.EncodeToString(key)
		return e, nil
	}
	var err error
	e.Wrapped, err = wrapper.Wrap(ctx, secret.New(key))
	return e, err
}

func create(ctx context.Context, path string, wrapper Wrapper) error {
	first, err := fresh(ctx, wrapper)
	if err != nil {
		return fmt.Errorf("create keyring %q: %w", path, err)
	}
	err = locked(path, func(dir *os.File) error {
		return replace(dir, path, document{Current: first.ID, Keys: []entry{first}}, os.Link)
	})
	if err != nil {
		return fmt.Errorf("create keyring %q: %w", path, err)
	}
	return nil
}

func edit(path string, change func(*document) error) error {
	err := locked(path, func(dir *os.File) error {
		doc, err := read(path)
		if err != nil {
			return err
		}
		if err := change(&doc); err != nil {
			return err
		}
		if err := doc.check(); err != nil {
			return err
		}
		return replace(dir, path, doc, os.Rename)
	})
	if err != nil {
		return fmt.Errorf("change keyring %q: %w", path, err)
	}
	return nil
}

// locked runs fn while no other process changes a keyring in the same directory. The kernel drops
// the lock of a process that dies.
func locked(path string, fn func(dir *os.File) error) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := syscall.Flock(int(dir.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("lock %q: %w", dir.Name(), err)
	}
	return fn(dir)
}

// replace puts doc at path with place (os.Link refuses an existing file, os.Rename replaces it). The
// temporary file has a fixed name, so one that a crash left behind is overwritten by the next change.
func replace(dir *os.File, path string, doc document, place func(from, to string) error) error {
	content, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		return err
	}
	defer clear(content)
	temporary := path + ".next"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer os.Remove(temporary)
	_, err = f.Write(append(content, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := place(temporary, path); err != nil {
		return err
	}
	return dir.Sync()
}

// read returns the checked document at path.
func read(path string) (document, error) {
	var doc document
	f, err := os.Open(path)
	if err != nil {
		return doc, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return doc, err
	}
	if !info.Mode().IsRegular() {
		return doc, errors.New("it is not a regular file")
	}
	if open := info.Mode().Perm() &^ 0o600; open != 0 {
		return doc, fmt.Errorf("its mode is %#o, want 0600: others must not read or change keys", info.Mode().Perm())
	}
	content, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return doc, err
	}
	defer clear(content)
	if len(content) > maxFileSize {
		return doc, fmt.Errorf("it is larger than %d bytes", maxFileSize)
	}
	// The decoder's own errors are not wrapped: the file is secret, and its text stays out of logs.
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if decoder.Decode(&doc) != nil {
		return doc, fmt.Errorf("it is not a keyring document (near byte %d)", decoder.InputOffset())
	}
	if decoder.More() {
		return doc, errors.New("it has more than one document")
	}
	return doc, doc.check()
}

// check reports what is wrong with the document, apart from the keys themselves.
func (d document) check() error {
	seen := map[string]bool{}
	for i, e := range d.Keys {
		switch {
		case !validID(e.ID):
			return fmt.Errorf("key %d: its id is not 1 to 64 of a-z, 0-9 and '-'", i+1)
		case seen[e.ID]:
			return fmt.Errorf("key %q appears twice", e.ID)
		case (e.Key == "") == (e.Wrapped == ""):
			return fmt.Errorf("key %q: want either key or wrapped", e.ID)
		}
		seen[e.ID] = true
	}
	if !seen[d.Current] {
		return fmt.Errorf("current key %q: %w", printable(d.Current), ErrUnknownKey)
	}
	return nil
}
