package files

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"castellan.dev/activities"
)

// checkTrusted refuses a directory to which a stranger could lead us elsewhere: every directory above it
// must belong to root or to this process, and must not be writable by others (unless sticky, as /tmp
// is). The same holds for the way that symbolic links take. For a process of root the group counts as
// others. The directory itself may belong to its consumer, but not be writable by everybody.
func checkTrusted(directory string) error {
	resolved, err := filepath.EvalSymlinks(directory)
	if err != nil {
		return classify(err, "resolve %q", directory)
	}
	for _, path := range []string{directory, resolved} {
		for above := filepath.Dir(path); ; above = filepath.Dir(above) {
			if err := checkAbove(above); err != nil {
				return err
			}
			if above == filepath.Dir(above) {
				break
			}
		}
	}
	info, err := os.Stat(directory)
	if err != nil {
		return classify(err, "look at %q", directory)
	}
	if !info.IsDir() {
		return activities.Errorf(activities.Invalid, "%q is not a directory", directory)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return activities.Errorf(activities.Invalid, "directory %q is writable by everybody: take that right away", directory)
	}
	return nil
}

func checkAbove(directory string) error {
	info, err := os.Stat(directory)
	if err != nil {
		return classify(err, "look at %q", directory)
	}
	// The owner of the root directory can be another user's namespace; nobody below could change it.
	if uid := owner(info); directory != "/" && uid != 0 && uid != os.Geteuid() {
		return activities.Errorf(activities.Invalid,
			"directory %q belongs to user %d, who could replace what lies below it: it must belong to root or to user %d",
			directory, uid, os.Geteuid())
	}
	strangers := fs.FileMode(0o002)
	if os.Geteuid() == 0 && group(info) != 0 {
		strangers = 0o022
	}
	if info.Mode()&fs.ModeSticky == 0 && info.Mode().Perm()&strangers != 0 {
		return activities.Errorf(activities.Invalid,
			"directory %q has mode %04o, so that others could replace what lies below it", directory, info.Mode().Perm())
	}
	return nil
}

func owner(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}

func group(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Gid)
	}
	return -1
}

// links returns the number of names that the file has.
func links(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Nlink) //nolint:unconvert // its type differs between platforms
	}
	return 0
}
