package bench

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/internal/config"
	"castellan.dev/internal/dev"
	"castellan.dev/internal/state"
)

// The role in which the test binary starts itself again, and what it needs to know.
const (
	roleVariable   = "CASTELLAN_BENCH_ROLE"
	configVariable = "CASTELLAN_BENCH_CONFIG"
	stateVariable  = "CASTELLAN_BENCH_STATE"
	roleDev        = "dev"
)

// rest is castellan-dev with nothing to do.
func rest() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	cfg, problems := config.Load(os.Getenv(configVariable))
	if err := problems.Err(); err != nil {
		return err
	}
	process, err := dev.Start(ctx, dev.Options{
		State: state.Dir(os.Getenv(stateVariable)), Config: cfg, Zones: activities.Zones(), Now: time.Now,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return err
	}
	return process.Run(ctx)
}

// memory starts castellan-dev in a process of its own and reads its resident memory.
func memory(t testing.TB) []row {
	const settle = 15 * time.Second
	dir := t.TempDir()
	h := &house{state: state.Dir(filepath.Join(dir, "state"))}
	child := exec.CommandContext(t.Context(), os.Args[0])
	child.Env = append(os.Environ(), roleVariable+"="+roleDev, configVariable+"="+h.configure(t, dir, targetsAtOnce), stateVariable+"="+string(h.state))
	child.Stderr = os.Stderr
	child.Cancel = func() error { return child.Process.Signal(syscall.SIGTERM) }
	child.WaitDelay = 10 * time.Second
	began := time.Now()
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- child.Wait() }()
	for {
		if _, err := h.state.Endpoints(); err == nil {
			break
		}
		select {
		case err := <-ended:
			t.Fatalf("castellan-dev ended: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
	ready := time.Since(began)
	atStart := resident(t, child.Process.Pid)
	time.Sleep(settle) // what is measured is rest
	atRest := resident(t, child.Process.Pid)
	used := processor(t, child.Process.Pid)
	if err := child.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("castellan-dev: %v", err)
	}
	return []row{
		{what: "ready after", castellan: fmt.Sprintf("%.1f s", ready.Seconds())},
		{what: "resident when ready", castellan: atStart["VmRSS"]},
		{what: fmt.Sprintf("resident after %s of rest", settle), castellan: atRest["VmRSS"]},
		{what: "of it not backed by files", castellan: atRest["RssAnon"]},
		{what: "most that was ever resident", castellan: atRest["VmHWM"]},
		{what: "processor time since the start", castellan: used},
	}
}

// resident reads the memory of a process in MiB, by the kernel's names.
func resident(t testing.TB, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil // not on Linux
	}
	found := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(value), " kB")); err == nil {
			found[name] = fmt.Sprintf("%d MiB", kib>>10)
		}
	}
	return found
}

// processor reads the processor time of a process.
func processor(t testing.TB, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	const ticks = 100 // a second, on every Linux that Go runs on
	return fmt.Sprintf("%.1f s", float64(user+system)/ticks)
}
