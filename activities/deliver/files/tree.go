package files

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"castellan.dev/activities"
)

// maxFile bounds what is read: no chain, key or bundle comes near it.
const maxFile = 4 << 20

// tree holds the served directories, opened once. Nothing below is reached by any other way, so a link
// that somebody places there cannot lead out of them.
type tree map[string]*os.Root

// openTree opens the directories. A directory that is missing is left out; when create is set, it is
// made if its parent exists.
func openTree(directories []string, create bool) (tree, error) {
	t := tree{}
	for _, directory := range directories {
		if t[directory] != nil {
			continue
		}
		if create {
			err := os.Mkdir(directory, 0o755)
			if err == nil {
				err = os.Chmod(directory, 0o755) // consumers must get in, whatever the process's mask is
			}
			if err != nil && !errors.Is(err, fs.ErrExist) {
				t.close()
				return nil, classify(err, "create served directory %q", directory)
			}
		}
		if _, err := os.Lstat(directory); errors.Is(err, fs.ErrNotExist) && !create {
			continue
		}
		if err := checkTrusted(directory); err != nil {
			t.close()
			return nil, err
		}
		root, err := os.OpenRoot(directory)
		if err != nil {
			t.close()
			return nil, classify(err, "open served directory %q", directory)
		}
		t[directory] = root
	}
	return t, nil
}

func (t tree) close() {
	for _, root := range t {
		_ = root.Close()
	}
}

// at returns the root and the name of an absolute path of one of the served directories.
func (t tree) at(path string) (*os.Root, string, bool) {
	for directory, root := range t {
		if relative, err := filepath.Rel(directory, path); err == nil && filepath.IsLocal(relative) {
			return root, relative, true
		}
	}
	return nil, "", false
}

// readFile reads a regular file below root with one open. A missing file is not ok.
func readFile(root *os.Root, name string) (f file, ok bool, err error) {
	// Without NONBLOCK a FIFO in the file's place would block us for ever.
	handle, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, false, nil
	}
	if err != nil {
		return file{}, false, err
	}
	defer handle.Close()
	info, err := handle.Stat()
	if err != nil {
		return file{}, false, err
	}
	if !info.Mode().IsRegular() {
		return file{}, false, activities.Errorf(activities.Invalid, "%q is not a regular file", filepath.Join(root.Name(), name))
	}
	data, err := io.ReadAll(io.LimitReader(handle, maxFile+1))
	if err != nil {
		return file{}, false, err
	}
	if len(data) > maxFile {
		return file{}, false, activities.Errorf(activities.Invalid, "%q is larger than %d bytes", filepath.Join(root.Name(), name), maxFile)
	}
	return file{data: data, attributes: attributes{Mode: info.Mode().Perm(), UID: owner(info), GID: group(info)}}, true, nil
}

// writeFile creates a file that did not exist. Until it is complete only this process may read it.
func writeFile(root *os.Root, name string, f file) error {
	handle, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer handle.Close()
	if _, err := handle.Write(f.data); err != nil {
		return err
	}
	// The owner changes first: a mode for a group must not reach the group it is not meant for.
	if err := chown(handle, f.attributes); err != nil {
		return err
	}
	if err := handle.Chmod(f.Mode); err != nil {
		return err
	}
	if err := handle.Sync(); err != nil {
		return err
	}
	return handle.Close()
}

// chown changes the owner only when it differs, because a process without privileges may not.
func chown(handle *os.File, want attributes) error {
	info, err := handle.Stat()
	if err != nil {
		return err
	}
	uid, gid := want.UID, want.GID
	if owner(info) == uid {
		uid = -1
	}
	if group(info) == gid {
		gid = -1
	}
	if uid == -1 && gid == -1 {
		return nil
	}
	return handle.Chown(uid, gid)
}

// syncDirectory makes the names in a directory below root durable.
func syncDirectory(root *os.Root, name string) error {
	handle, err := root.Open(name)
	if err != nil {
		return err
	}
	defer handle.Close()
	return handle.Sync()
}

// erase overwrites a regular file and removes it. It is idempotent. A file with a second name is not
// overwritten: the other name may be somebody else's.
func erase(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().IsRegular() && links(info) == 1 && info.Size() > 0 {
		if err := overwrite(root, name, info.Size()); err != nil {
			return err
		}
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func overwrite(root *os.Root, name string, size int64) error {
	handle, err := root.OpenFile(name, os.O_WRONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) {
		return nil // not ours to write, but perhaps ours to unlink
	}
	if err != nil {
		return err
	}
	defer handle.Close()
	if _, err := handle.Write(make([]byte, min(size, maxFile))); err != nil {
		return err
	}
	if err := handle.Sync(); err != nil {
		return err
	}
	return handle.Close()
}

// eraseAll erases a directory below root with everything in it, or a single file. Idempotent.
func eraseAll(root *os.Root, name string) error {
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return erase(root, name)
	}
	names, err := list(root, name)
	if err != nil {
		return err
	}
	for _, inner := range names {
		if err := eraseAll(root, filepath.Join(name, inner)); err != nil {
			return err
		}
	}
	if err := syncDirectory(root, name); err != nil {
		return err
	}
	return root.Remove(name)
}

// list returns the names in a directory below root; none when it does not exist.
func list(root *os.Root, name string) ([]string, error) {
	handle, err := root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	return handle.Readdirnames(-1)
}
