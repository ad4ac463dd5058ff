package files

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"castellan.dev/activities"
)

// openState opens the state directory and creates it if need be. It belongs to this process alone.
func openState(directory string) (*os.Root, error) {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return nil, classify(err, "create state directory %q", directory)
	}
	if err := checkTrusted(directory); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(directory)
	if err != nil {
		return nil, classify(err, "open state directory %q", directory)
	}
	info, err := root.Stat(".")
	if err == nil && owner(info) != os.Geteuid() {
		err = activities.Errorf(activities.Invalid, "state directory %q belongs to user %d, not to user %d",
			directory, owner(info), os.Geteuid())
	}
	if err == nil && info.Mode().Perm() != 0o700 {
		err = root.Chmod(".", 0o700)
	}
	if err != nil {
		_ = root.Close()
		return nil, classify(err, "open state directory %q", directory)
	}
	return root, nil
}

// lockPoll is how often a held lock is tried again. The kernel has no wait for it that a context ends.
const lockPoll = 10 * time.Millisecond

// lock takes the delivery's lock and waits for it at most that long. The kernel lets go of it when the
// process ends, however it ends; a stopped process keeps it, and that is what makes the fence hold.
func lock(ctx context.Context, state *os.Root, wait time.Duration) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	retry := time.NewTicker(lockPoll)
	defer retry.Stop()
	for {
		handle, err := tryLock(state)
		if err == nil {
			return func() { _ = handle.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, classify(err, "lock %q", filepath.Join(state.Name(), lockName))
		}
		select {
		case <-ctx.Done():
			return nil, activities.Errorf(activities.Transient, "lock %q: another write holds it: %w",
				filepath.Join(state.Name(), lockName), ctx.Err())
		case <-retry.C:
		}
	}
}

func tryLock(state *os.Root) (*os.File, error) {
	handle, err := state.OpenFile(lockName, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(handle.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = handle.Close()
		return nil, err
	}
	// Somebody may have removed the file while it was being locked: the lock must be on the one that the
	// next process will open.
	held, err := handle.Stat()
	if err == nil {
		var named os.FileInfo
		if named, err = state.Lstat(lockName); err == nil && !os.SameFile(held, named) {
			err = unix.EWOULDBLOCK
		}
	}
	if err != nil {
		_ = handle.Close()
		return nil, err
	}
	return handle, nil
}
