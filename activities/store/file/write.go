package file

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
)

// Write stores value as version expected+1 if the latest version is still expected.
func (s *Store) Write(ctx context.Context, name string, value []byte, expected store.Version) (store.Version, error) {
	if err := ready(ctx, name); err != nil {
		return 0, err
	}
	if len(value) > maxValue {
		return 0, activities.Errorf(activities.Invalid, "write document %q: value has %d bytes, want at most %d", name, len(value), maxValue)
	}
	latest, err := s.latest(name)
	if err != nil {
		return 0, failure("write document "+name, err)
	}
	if latest != expected {
		return 0, conflict(name, expected, latest)
	}
	version := expected + 1
	content, err := encodeLive(s.ring, name, version, s.now(), value)
	if err != nil {
		return 0, failure("write document "+name, err)
	}
	if expected == 0 {
		if err := s.makeDirectory(name); err != nil {
			return 0, failure("write document "+name, err)
		}
	}
	err = s.place(content, func(from string) error { return s.root.Link(from, versionPath(name, version)) })
	if errors.Is(err, fs.ErrExist) {
		return 0, conflict(name, expected, version)
	}
	if err != nil {
		return 0, failure("write document "+name, err)
	}
	if err := s.sync(directory(name)); err != nil {
		return 0, activities.Errorf(activities.Uncertain, "write document %q: sync version %d: %w", name, version, err)
	}
	s.learn(name, version)
	return version, nil
}

func conflict(name string, expected, latest store.Version) error {
	return activities.Errorf(activities.Conflict, "write document %q: its latest version is %d, want %d", name, latest, expected)
}

// makeDirectory makes a document's directory and makes the whole path to it durable, also where
// another process has just made it and may not have come to that.
func (s *Store) makeDirectory(name string) error {
	if err := s.root.MkdirAll(directory(name), 0o700); err != nil {
		return err
	}
	for dir := path.Dir(directory(name)); dir != "."; dir = path.Dir(dir) {
		if err := s.sync(dir); err != nil {
			return err
		}
	}
	return nil
}

// place writes content to a synced temporary file and hands its path to put, which links or renames
// it. The file is locked while its writer lives: see recover.
func (s *Store) place(content []byte, put func(from string) error) error {
	from := path.Join(temporary, rand.Text())
	f, err := s.createLocked(from)
	if err != nil {
		return err
	}
	defer f.Close()
	defer s.root.Remove(from) // renamed already, or else the next start removes it
	if _, err := f.Write(content); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return put(from)
}

// createLocked creates a temporary file that no other process sees without its lock.
func (s *Store) createLocked(name string) (*os.File, error) {
	dir, err := s.lock(temporary, syscall.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	f, err := s.root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f, syscall.LOCK_EX); err != nil {
		return nil, errors.Join(err, f.Close(), s.root.Remove(name))
	}
	return f, nil
}

// lock opens a directory of the store and locks it; closing it gives the lock back.
func (s *Store) lock(dir string, how int) (*os.File, error) {
	f, err := s.root.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := flock(f, how); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// flock locks an open file. The kernel gives the lock back when the last process that has the file
// open closes it or dies.
func flock(f *os.File, how int) error {
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

// Erase replaces a version by a tombstone and overwrites its file.
//
// The file gets a second name first, so that whichever moment a crash takes, either the version is
// still whole and not erased, or the next start finds the second name and overwrites the rest.
func (s *Store) Erase(ctx context.Context, name string, version store.Version) error {
	if err := ready(ctx, name); err != nil {
		return err
	}
	act := "erase document " + name
	latest, err := s.latest(name)
	if err != nil {
		return failure(act, err)
	}
	if version == 0 || version > latest {
		return activities.Errorf(activities.NotFound, "erase document %q: it has no version %d", name, version)
	}
	written := s.now()
	if h, err := s.readHeader(name, version); err == nil {
		if h.state == stateErased {
			// Its eraser may have died before it came to overwriting.
			if err := errors.Join(s.sync(directory(name)), s.recover()); err != nil {
				return failure(act, err)
			}
			return nil
		}
		written = h.written
	} // A damaged file is erased all the same.
	doomed := path.Join(erasing, rand.Text())
	f, err := s.linkLocked(versionPath(name, version), doomed)
	if err != nil {
		return failure(act, err)
	}
	defer f.Close()
	tombstone := encodeErased(s.ring, name, version, written)
	err = s.place(tombstone, func(from string) error { return s.root.Rename(from, versionPath(name, version)) })
	if err != nil {
		return failure(act, errors.Join(err, s.root.Remove(doomed)))
	}
	if err := errors.Join(s.sync(erasing), s.sync(directory(name)), overwrite(f)); err != nil {
		return failure(act, err)
	}
	if err := s.root.Remove(doomed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return failure(act, err)
	}
	return nil
}

// linkLocked gives a version's file its second name and opens it, so that no other process sees the
// name without the lock. Where another eraser has the file locked, both go on.
func (s *Store) linkLocked(from, name string) (*os.File, error) {
	dir, err := s.lock(erasing, syscall.LOCK_SH)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := s.root.Link(from, name); err != nil {
		return nil, err
	}
	f, err := s.root.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return nil, errors.Join(err, s.root.Remove(name))
	}
	if err := flock(f, syscall.LOCK_EX|syscall.LOCK_NB); err != nil && !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errors.Join(err, f.Close(), s.root.Remove(name))
	}
	return f, nil
}

// overwrite destroys the content of an open file: the data key in its header with the first bytes. The
// truncation need not be durable: what a crash brings back is random.
func overwrite(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if _, err := io.CopyN(io.NewOffsetWriter(f, 0), rand.Reader, info.Size()); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return f.Truncate(0)
}
