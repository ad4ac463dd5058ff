package file

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"syscall"
)

// recover removes what dead processes left: temporary files, and files that were to be overwritten.
// It may run beside living writers and erasers, whose files are locked.
func (s *Store) recover() error {
	err := s.leftovers(temporary, func(f *os.File, name string) error {
		// Never overwritten: it may be a version's file by now.
		return s.root.Remove(name)
	})
	if err != nil {
		return err
	}
	var versions map[uint64]bool
	return s.leftovers(erasing, func(f *os.File, name string) error {
		if versions == nil {
			versions = map[uint64]bool{}
			if err := s.versionFiles(documents, versions); err != nil {
				return err
			}
		}
		// A file that is still its version's own was not replaced by a tombstone: the erasure did not
		// happen. One that is not never becomes a version's again.
		number, err := inode(f.Stat())
		if err == nil && !versions[number] {
			err = overwrite(f)
		}
		return errors.Join(err, s.root.Remove(name))
	})
}

// leftovers calls discard for every file in a working directory that no living process has locked.
func (s *Store) leftovers(dir string, discard func(f *os.File, name string) error) error {
	// Whoever creates a file here holds the directory until the file is locked.
	held, err := s.lock(dir, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil // the next start cleans up
	}
	if err != nil {
		return err
	}
	defer held.Close()
	entries, err := s.entries(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		name := path.Join(dir, e.Name())
		f, err := s.root.OpenFile(name, os.O_WRONLY, 0)
		if err == nil {
			if flock(f, syscall.LOCK_EX|syscall.LOCK_NB) == nil {
				err = discard(f, name)
			}
			err = errors.Join(err, f.Close())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// versionFiles collects the inode numbers of all versions' files below dir.
func (s *Store) versionFiles(dir string, into map[uint64]bool) error {
	entries, err := s.entries(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if name := path.Join(dir, e.Name()); e.IsDir() {
			err = s.versionFiles(name, into)
		} else {
			var number uint64
			number, err = inode(s.root.Lstat(name))
			into[number] = true
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func inode(info fs.FileInfo, err error) (uint64, error) {
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("the system does not tell inode numbers")
	}
	return stat.Ino, nil
}
