package reload_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver/reload"
)

const childVariable = "CASTELLAN_TEST_CHILD"

// TestChild is a program that reports the signals it gets. Without its variable it does nothing.
func TestChild(t *testing.T) {
	if os.Getenv(childVariable) == "" {
		return
	}
	signals := make(chan os.Signal, 10)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	fmt.Println("ready")
	for s := range signals {
		fmt.Println(s)
	}
}

// program starts the child and returns its pid and the lines that it prints.
func program(t *testing.T) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	child := exec.Command(os.Args[0], "-test.run=^TestChild$")
	child.Env = append(os.Environ(), childVariable+"=1")
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill(); _ = child.Wait() })
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "ready" {
		t.Fatalf("the program did not start: %q", lines.Text())
	}
	return child, lines
}

func pidFile(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "service.pid")
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

func wantKind(t *testing.T, err error, want activities.Kind) {
	t.Helper()
	if err == nil {
		t.Fatalf("got no error, want kind %q", want)
	}
	if got := activities.KindOf(err); got != want {
		t.Errorf("got kind %q, want %q: %v", got, want, err)
	}
}

func TestSignalReachesTheProcess(t *testing.T) {
	child, lines := program(t)
	for name, want := range map[string]string{
		"": "hangup", "HUP": "hangup", "SIGHUP": "hangup", "USR1": "user defined signal 1",
		"USR2": "user defined signal 2", "WINCH": "window changed",
	} {
		for _, process := range []string{"", filepath.Base(os.Args[0])} {
			config := reload.SignalConfig{PIDFile: pidFile(t, strconv.Itoa(child.Process.Pid)+"\nmore\n"), Signal: name, Process: process}
			wantNoProblems(t, config)
			if err := reload.NewSignal(config).Reload(t.Context(), "any"); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if !lines.Scan() || lines.Text() != want {
				t.Errorf("%s: the program got %q, want %q", name, lines.Text(), want)
			}
		}
	}
}

func TestSignalSparesStrangers(t *testing.T) {
	child, lines := program(t)
	stale := reload.SignalConfig{PIDFile: pidFile(t, strconv.Itoa(child.Process.Pid)), Process: "nginx"}
	wantKind(t, reload.NewSignal(stale).Reload(t.Context(), "any"), activities.NotFound)
	stale.Process = "/usr/sbin/" + filepath.Base(os.Args[0])
	wantKind(t, reload.NewSignal(stale).Reload(t.Context(), "any"), activities.NotFound)
	// The first thing that the program reports is the signal that was meant for it.
	stale.Process, stale.Signal = "", "USR1"
	if err := reload.NewSignal(stale).Reload(t.Context(), "any"); err != nil {
		t.Fatal(err)
	}
	if !lines.Scan() || lines.Text() != "user defined signal 1" {
		t.Errorf("the program got %q before what was meant for it", lines.Text())
	}
}

func TestSignalWithoutAProcess(t *testing.T) {
	child, _ := program(t)
	_ = child.Process.Kill()
	_ = child.Wait()
	for name, c := range map[string]struct {
		text string
		want activities.Kind
	}{
		"the process has ended":       {strconv.Itoa(child.Process.Pid), activities.NotFound},
		"the file is being written":   {"", activities.Transient},
		"the file holds something":    {"abc", activities.Transient},
		"the file names init":         {"1", activities.Transient},
		"the file names a group":      {"-5", activities.Transient},
		"the file names every group":  {"-1", activities.Transient},
		"the file names its own zero": {"0", activities.Transient},
	} {
		err := reload.NewSignal(reload.SignalConfig{PIDFile: pidFile(t, c.text)}).Reload(t.Context(), "any")
		if err == nil || activities.KindOf(err) != c.want {
			t.Errorf("%s: got %v, want kind %q", name, err, c.want)
		}
	}
	wantKind(t, reload.NewSignal(reload.SignalConfig{PIDFile: "/nonexistent/pid"}).Reload(t.Context(), "any"), activities.NotFound)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wantKind(t, reload.NewSignal(reload.SignalConfig{PIDFile: "/nonexistent/pid"}).Reload(ctx, "any"), activities.Transient)
}

func TestNoneDoesNothing(t *testing.T) {
	wantNoProblems(t, reload.NoneConfig{})
	if err := (reload.None{}).Reload(t.Context(), "any"); err != nil {
		t.Error(err)
	}
}
