package reload

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"castellan.dev/activities"
)

// SignalConfig declares a reload by a signal to the process that a pid file names.
type SignalConfig struct {
	PIDFile string `yaml:"pidFile"` // absolute path, required
	Signal  string `yaml:"signal"`  // HUP (default), USR1, USR2 or WINCH
	Process string `yaml:"process"` // name or absolute path of the executable that the pid must run; default: not checked
}

// reloadSignals are the signals that programs use for reading their files again. One that ends a process
// is a restart, for which systemd is asked, because somebody has to start it.
var reloadSignals = map[string]syscall.Signal{
	"":      syscall.SIGHUP,
	"HUP":   syscall.SIGHUP,
	"USR1":  syscall.SIGUSR1,
	"USR2":  syscall.SIGUSR2,
	"WINCH": syscall.SIGWINCH,
}

// Check reports every problem of the configuration.
func (c SignalConfig) Check(report func(field, value, want string)) {
	if !filepath.IsAbs(c.PIDFile) {
		report("pidFile", c.PIDFile, "an absolute path")
	}
	if _, ok := reloadSignals[strings.TrimPrefix(c.Signal, "SIG")]; !ok {
		report("signal", c.Signal, "HUP, USR1, USR2 or WINCH; to restart a program, use the kind systemd")
	}
	if strings.Contains(c.Process, "/") && !filepath.IsAbs(c.Process) {
		report("process", c.Process, "the name of an executable, or its absolute path")
	}
}

// Signal reloads by a signal.
type Signal struct {
	config SignalConfig
	signal syscall.Signal
}

// NewSignal returns the reloader of a checked configuration.
func NewSignal(config SignalConfig) *Signal {
	return &Signal{config: config, signal: reloadSignals[strings.TrimPrefix(config.Signal, "SIG")]}
}

// Reload sends the signal. That no such process runs is an error: a program that was not told would be
// found as a straggler, but without the reason.
func (s *Signal) Reload(ctx context.Context, _ string) error {
	if err := ctx.Err(); err != nil {
		return activities.Errorf(activities.Transient, "signal by %q: %w", s.config.PIDFile, err)
	}
	pid, err := readPID(s.config.PIDFile)
	if err != nil {
		return err
	}
	// On Linux this holds on to the process: what is checked below is what gets the signal, even if it
	// ends meanwhile and its pid is used again.
	process, err := os.FindProcess(pid)
	if err != nil {
		return activities.Errorf(activities.NotFound, "signal by %q: find process %d: %w", s.config.PIDFile, pid, err)
	}
	defer process.Release() //nolint:errcheck // nothing was started that could be left behind
	if err := process.Signal(syscall.Signal(0)); err != nil {
		return s.classify(pid, err)
	}
	if err := s.identify(pid); err != nil {
		return err
	}
	if err := process.Signal(s.signal); err != nil {
		return s.classify(pid, err)
	}
	return nil
}

// readPID reads a pid file: a number, perhaps followed by lines that do not matter here.
func readPID(path string) (int, error) {
	handle, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		kind := activities.Transient
		if errors.Is(err, fs.ErrNotExist) {
			kind = activities.NotFound
		} else if errors.Is(err, fs.ErrPermission) {
			kind = activities.Denied
		}
		return 0, activities.Errorf(kind, "read pid file: %w", err)
	}
	defer handle.Close()
	text, err := io.ReadAll(io.LimitReader(handle, 4096))
	if err != nil {
		return 0, activities.Errorf(activities.Transient, "read pid file: %w", err)
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	// 1 is init, and what is not positive names groups of processes.
	if err != nil || pid < 2 {
		return 0, activities.Errorf(activities.Transient, "read pid file %q: it does not begin with the pid of a process", path)
	}
	return pid, nil
}

// identify checks that the pid runs the configured executable.
func (s *Signal) identify(pid int) error {
	if s.config.Process == "" {
		return nil
	}
	got, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "exe"))
	if err != nil {
		return s.classify(pid, err)
	}
	got = strings.TrimSuffix(got, " (deleted)") // replaced by an upgrade while it runs
	if got != s.config.Process && filepath.Base(got) != s.config.Process {
		return activities.Errorf(activities.NotFound, "signal by %q: process %d runs %q, not %q: the pid file is stale",
			s.config.PIDFile, pid, got, s.config.Process)
	}
	return nil
}

func (s *Signal) classify(pid int, err error) error {
	kind := activities.Transient
	switch {
	case errors.Is(err, os.ErrProcessDone), errors.Is(err, syscall.ESRCH), errors.Is(err, fs.ErrNotExist):
		kind = activities.NotFound
	case errors.Is(err, fs.ErrPermission):
		kind = activities.Denied
	}
	return activities.Errorf(kind, "signal by %q: process %d: %w", s.config.PIDFile, pid, err)
}
