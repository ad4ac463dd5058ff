package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.temporal.io/server/common/headers"
)

const (
	databaseFile = "engine.db"
	versionFile  = "engine.version"
	setupFile    = "engine.setup" // exists while the database is being made
	lockFile     = "engine.lock"
)

// Version is the version of the embedded server, and of the file that it writes.
const Version = headers.ServerVersion

// Reset removes the engine's files from dir and nothing else: CA, service database, stores and
// ledger stay, and open rotations start again by observing their targets. It refuses while an
// engine runs there.
func Reset(dir string) error {
	unlock, err := lock(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reset engine: %w", err)
	}
	defer unlock()
	if err := removeDatabase(dir); err != nil {
		return fmt.Errorf("reset engine: %w", err)
	}
	for _, name := range []string{versionFile, setupFile} {
		if err := remove(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("reset engine: %w", err)
		}
	}
	return nil
}

func removeDatabase(dir string) error {
	for _, suffix := range []string{"", "-wal", "-shm", "-journal"} {
		if err := remove(filepath.Join(dir, databaseFile+suffix)); err != nil {
			return err
		}
	}
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// prepare decides what to do with the files in dir: use them, refuse them, or make them with setup.
// A set-up that was cut off leaves its marker and is done again from the start.
func prepare(dir string, setup func() error) error {
	database, marker := filepath.Join(dir, databaseFile), filepath.Join(dir, setupFile)
	if exists(marker) {
		if err := removeDatabase(dir); err != nil {
			return err
		}
	}
	if exists(database) {
		return checkVersion(dir)
	}
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		return err
	}
	if err := setup(); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, versionFile), []byte(Version+"\n"), 0o600); err != nil {
		return err
	}
	return os.Remove(marker)
}

func checkVersion(dir string) error {
	content, err := os.ReadFile(filepath.Join(dir, versionFile))
	written := strings.TrimSpace(string(content))
	if errors.Is(err, fs.ErrNotExist) {
		written = "unknown"
	} else if err != nil {
		return err
	}
	if written == Version {
		return nil
	}
	return fmt.Errorf("the engine's file in %q was written by server version %s and this is %s: run `castellan-dev engine reset`, "+
		"which keeps CA, service database, stores and ledger and lets open rotations start again by observation", dir, written, Version)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
