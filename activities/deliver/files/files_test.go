package files_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"castellan.dev/activities/deliver"
	"castellan.dev/activities/deliver/files"
	"castellan.dev/testsuite/conformance"
)

// place is a delivery of each layout in a directory of its own.
func place(t *testing.T, layout string) files.Config {
	t.Helper()
	base := t.TempDir()
	served := filepath.Join(base, "served")
	c := files.Config{Layout: layout, State: filepath.Join(base, "state")}
	switch layout {
	case files.Generation:
		c.Directory = served
	case files.Combined:
		c.Path = filepath.Join(served, "service.pem")
		c.Order = files.KeyFirst
	case files.Plain:
		c.Certificate, c.Key, c.Bundle = filepath.Join(served, "tls.crt"), filepath.Join(served, "tls.key"), filepath.Join(served, "ca.crt")
		c.NonAtomic = true
	}
	if err := os.MkdirAll(served, 0o755); err != nil {
		t.Fatal(err)
	}
	wantNoProblems(t, c)
	return c
}

func wantNoProblems(t *testing.T, c files.Config) {
	t.Helper()
	c.Check(func(field, value, want string) { t.Errorf("%s: %q is refused: want %s", field, value, want) })
}

// read reads the pair as a careful consumer does: one open of the directory, or of the one file.
func read(c files.Config) (chain, key []byte, err error) {
	if c.Layout == files.Combined {
		all, err := os.ReadFile(c.Path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil, nil
		}
		return all, all, err
	}
	if c.Layout == files.Plain {
		if chain, err = os.ReadFile(c.Certificate); errors.Is(err, fs.ErrNotExist) {
			return nil, nil, nil
		}
		if err == nil {
			key, err = os.ReadFile(c.Key)
		}
		return chain, key, err
	}
	root, err := os.OpenRoot(filepath.Join(c.Directory, "current"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer root.Close()
	if chain, err = root.ReadFile("tls.crt"); err != nil {
		return nil, nil, err
	}
	if key, err = root.ReadFile("tls.key"); err == nil && (erased(chain) || erased(key)) {
		err = errErased
	}
	return chain, key, err
}

// errErased is what a reader meets that is so slow that what it opened was retired meanwhile: it reads
// again, as it does when a file is gone.
var errErased = errors.New("retired while it was read")

func erased(text []byte) bool { return len(text) == 0 || text[0] == 0 }

// foreign writes as somebody who knows nothing of castellan.
func foreign(c files.Config, chain, key []byte) error {
	switch c.Layout {
	case files.Combined:
		return os.WriteFile(c.Path, append(append([]byte{}, key...), chain...), 0o600)
	case files.Plain:
		return errors.Join(os.WriteFile(c.Key, key, 0o600), os.WriteFile(c.Certificate, chain, 0o644))
	}
	byHand := filepath.Join(c.Directory, "by-hand")
	if err := errors.Join(os.MkdirAll(byHand, 0o755), os.WriteFile(filepath.Join(byHand, "tls.crt"), chain, 0o644),
		os.WriteFile(filepath.Join(byHand, "tls.key"), key, 0o600)); err != nil {
		return err
	}
	link := filepath.Join(c.Directory, "current")
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink("by-hand", link)
}

// stored returns every byte below the state directory and every leftover beside what is served.
func stored(c files.Config) ([]byte, error) {
	all, err := below(c.State, func(string) bool { return true })
	if err != nil || c.Layout != files.Generation {
		return all, err
	}
	current, err := filepath.EvalSymlinks(filepath.Join(c.Directory, "current"))
	if err != nil {
		return nil, err
	}
	rest, err := below(c.Directory, func(path string) bool { return filepath.Dir(path) != current })
	return append(all, rest...), err
}

func below(directory string, wanted func(path string) bool) ([]byte, error) {
	var all []byte
	err := filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || !wanted(path) {
			return err
		}
		data, err := os.ReadFile(path)
		all = append(all, data...)
		return err
	})
	return all, err
}

func TestConformance(t *testing.T) {
	for _, layout := range []string{files.Generation, files.Combined} {
		t.Run(layout, func(t *testing.T) {
			conformance.RunDeliverer(t, func(t *testing.T) conformance.Delivery {
				c := place(t, layout)
				return conformance.Delivery{
					Deliverer: files.New(c, "", time.Now),
					Another:   func() deliver.Deliverer { return files.New(c, "", time.Now) },
					Read:      func() ([]byte, []byte, error) { return read(c) },
					Foreign:   func(chain, key []byte) error { return foreign(c, chain, key) },
					Kept:      func() ([]byte, error) { return stored(c) },
					Break:     func() func() { return hide(t, c) },
				}
			})
		})
	}
}

// hide takes the served directory away, as an unmounted volume does.
func hide(t *testing.T, c files.Config) (mend func()) {
	t.Helper()
	served := c.Directory
	if served == "" {
		served = filepath.Dir(c.Path)
	}
	aside := served + ".aside"
	if err := errors.Join(os.Rename(served, aside), os.WriteFile(served, []byte("a file"), 0o644)); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := errors.Join(os.Remove(served), os.Rename(aside, served)); err != nil {
			t.Fatal(err)
		}
	}
}
