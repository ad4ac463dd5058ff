package files

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"castellan.dev/activities"
)

// currentName is the link that consumers follow; generationsName holds what it leads to.
const (
	currentName     = "current"
	generationsName = "generations"
)

// layout is how content lies in the served directories.
type layout interface {
	// read returns what a consumer reads now.
	read(t tree) (content, error)
	// names chooses the paths that put will make, so that they can be recorded before they exist.
	names(t tree, w write) ([]string, error)
	// put writes the content beside what is there and makes it visible. The names are those chosen.
	put(t tree, names []string, c content) error
}

// unique returns stem, or stem with the first suffix for which no such name exists in the directory.
func unique(root *os.Root, directory, stem string) (string, error) {
	for n := 1; ; n++ {
		name := stem
		if n > 1 {
			name += "-" + strconv.Itoa(n)
		}
		_, err := root.Lstat(filepath.Join(directory, name))
		if errors.Is(err, fs.ErrNotExist) {
			return name, nil
		}
		if err != nil {
			return "", err
		}
	}
}

func stem(w write) string {
	return strconv.FormatUint(uint64(w.Epoch), 10) + "-" + w.Fingerprint[:min(8, len(w.Fingerprint))]
}

// generation is the layout with a link to a directory.
type generation struct {
	directory string
	files     map[slot]string
}

func (l generation) read(t tree) (content, error) {
	root := t[l.directory]
	if root == nil {
		return content{}, nil
	}
	place, err := root.Readlink(currentName)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return content{}, nil
	case errors.Is(err, syscall.EINVAL):
		return content{}, activities.Errorf(activities.Invalid,
			"read %q: it is not a symbolic link; move it aside, castellan does not remove it", filepath.Join(l.directory, currentName))
	case err != nil:
		return content{}, classify(err, "read %q", filepath.Join(l.directory, currentName))
	}
	// One open pins the generation: everything is read from the same one, whatever happens to the link.
	pinned, err := root.OpenRoot(place)
	if errors.Is(err, fs.ErrNotExist) {
		return content{place: place}, nil
	}
	if err != nil {
		return content{}, classify(err, "open what %q leads to, below the served directory", filepath.Join(l.directory, currentName))
	}
	defer pinned.Close()
	c := content{files: map[slot]file{}, place: place}
	if info, err := pinned.Stat("."); err == nil {
		c.directory = &attributes{Mode: info.Mode().Perm(), UID: owner(info), GID: group(info)}
	}
	for s, name := range l.files {
		f, ok, err := readFile(pinned, name)
		if err != nil {
			return content{}, classify(err, "read %q", filepath.Join(l.directory, place, name))
		}
		if ok {
			c.files[s] = f
		}
	}
	return c, nil
}

func (l generation) names(t tree, w write) ([]string, error) {
	name, err := unique(t[l.directory], generationsName, stem(w))
	if err != nil {
		return nil, classify(err, "look for a free generation below %q", l.directory)
	}
	link, err := unique(t[l.directory], ".", ".castellan-"+name)
	if err != nil {
		return nil, classify(err, "look for a free name below %q", l.directory)
	}
	return []string{filepath.Join(l.directory, generationsName, name), filepath.Join(l.directory, link)}, nil
}

func (l generation) put(t tree, names []string, c content) error {
	root := t[l.directory]
	place := filepath.Join(generationsName, filepath.Base(names[0]))
	link := filepath.Base(names[1])
	if err := mkdirOpen(root, generationsName); err != nil {
		return classify(err, "create %q", filepath.Join(l.directory, generationsName))
	}
	if err := l.fill(root, place, c); err != nil {
		return classify(err, "write generation %q", names[0])
	}
	if err := syncDirectory(root, generationsName); err != nil {
		return classify(err, "sync %q", filepath.Join(l.directory, generationsName))
	}
	if err := root.Symlink(place, link); err != nil {
		return classify(err, "create link %q", names[1])
	}
	return flip(root, link, currentName)
}

// fill makes the generation's directory. Nobody else may enter it before it is complete.
func (l generation) fill(root *os.Root, place string, c content) error {
	if err := root.Mkdir(place, 0o700); err != nil {
		return err
	}
	inside, err := root.OpenRoot(place)
	if err != nil {
		return err
	}
	defer inside.Close()
	handle, err := inside.Open(".")
	if err != nil {
		return err
	}
	defer handle.Close()
	info, err := handle.Stat()
	if err != nil {
		return err
	}
	if owner(info) != os.Geteuid() {
		return activities.Errorf(activities.Conflict, "somebody replaced %q while it was made", place)
	}
	for s, f := range c.files {
		if err := writeFile(inside, l.files[s], f); err != nil {
			return err
		}
	}
	if err := chown(handle, *c.directory); err != nil {
		return err
	}
	if err := handle.Chmod(c.directory.Mode); err != nil {
		return err
	}
	return handle.Sync()
}

// mkdirOpen makes a directory that consumers may enter, whatever the process's mask is.
func mkdirOpen(root *os.Root, name string) error {
	err := root.Mkdir(name, 0o755)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return root.Chmod(name, 0o755)
}

// flip makes the prepared name visible in one step and durable after it.
func flip(root *os.Root, prepared, visible string) error {
	path := filepath.Join(root.Name(), visible)
	if err := root.Rename(prepared, visible); err != nil {
		return classify(err, "rename to %q", path)
	}
	if err := syncDirectory(root, filepath.Dir(visible)); err != nil {
		return activities.Errorf(activities.Uncertain, "make %q durable: %w", path, err)
	}
	return nil
}

// paths is the layout of one or more files, each replaced by a rename of its own, in this order. With
// one file, the change is atomic.
type paths []struct {
	slot slot
	path string
}

func (l paths) read(t tree) (content, error) {
	c := content{files: map[slot]file{}}
	for _, p := range l {
		root := t[filepath.Dir(p.path)]
		if root == nil {
			continue
		}
		if info, err := root.Lstat(filepath.Base(p.path)); err == nil && info.Mode()&fs.ModeSymlink != 0 {
			return content{}, activities.Errorf(activities.Invalid,
				"%q is a symbolic link, which a write would replace: name the file that it leads to", p.path)
		}
		f, ok, err := readFile(root, filepath.Base(p.path))
		if err != nil {
			return content{}, classify(err, "read %q", p.path)
		}
		if ok {
			c.files[p.slot] = f
		}
	}
	return c, nil
}

func (l paths) names(t tree, w write) ([]string, error) {
	var names []string
	for _, p := range l {
		directory := filepath.Dir(p.path)
		name, err := unique(t[directory], ".", ".castellan-"+stem(w)+"-"+filepath.Base(p.path))
		if err != nil {
			return nil, classify(err, "look for a free name in %q", directory)
		}
		names = append(names, filepath.Join(directory, name))
	}
	return names, nil
}

func (l paths) put(t tree, names []string, c content) error {
	for i, p := range l {
		if f, ok := c.files[p.slot]; ok {
			if err := writeFile(t[filepath.Dir(p.path)], filepath.Base(names[i]), f); err != nil {
				return classify(err, "write %q", names[i])
			}
		}
	}
	for i, p := range l {
		if _, ok := c.files[p.slot]; !ok {
			continue // a bundle that came later stays: others may read that path, too
		}
		if err := flip(t[filepath.Dir(p.path)], filepath.Base(names[i]), filepath.Base(p.path)); err != nil {
			return err
		}
	}
	return nil
}

// layout returns the configured layout.
func (c Config) layout() layout {
	switch c.Layout {
	case Combined:
		return paths{{combinedSlot, c.Path}}
	case Plain:
		// The key goes first: a program that is told by the certificate's change finds the key there.
		l := paths{{keySlot, c.Key}, {certificateSlot, c.Certificate}}
		if c.Bundle != "" {
			l = slices.Insert(l, 0, paths{{bundleSlot, c.Bundle}}...)
		}
		return l
	}
	return generation{c.Directory, map[slot]string{certificateSlot: c.Certificate, keySlot: c.Key, bundleSlot: c.Bundle}}
}
