package build_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"castellan.dev/testsuite/servers/build"
)

const source = `package main

import "fmt"

var version = "unstamped"

func main() { fmt.Print(version) }
`

func module(t *testing.T) string {
	t.Helper()
	t.Setenv("CASTELLAN_CACHE", t.TempDir())
	dir := t.TempDir()
	write(t, filepath.Join(dir, "go.mod"), "module example.test/server\n\ngo 1.26\n")
	write(t, filepath.Join(dir, "main.go"), source)
	return dir
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestBinaryIsBuiltOncePerContentAndFlags(t *testing.T) {
	dir := module(t)
	first, err := build.Binary(t.Context(), dir, "server", "-X main.version=v1")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(first).Output(); err != nil || string(out) != "v1" {
		t.Errorf("the program prints %q, %v; want the stamped version", out, err)
	}
	before, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	again, err := build.Binary(t.Context(), dir, "server", "-X main.version=v1")
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(again)
	if err != nil {
		t.Fatal(err)
	}
	if again != first || !os.SameFile(before, after) {
		t.Errorf("the second call built %q again", again)
	}

	stamped, err := build.Binary(t.Context(), dir, "server", "-X main.version=v2")
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "main.go"), source+"// changed\n")
	changed, err := build.Binary(t.Context(), dir, "server", "-X main.version=v1")
	if err != nil {
		t.Fatal(err)
	}
	if stamped == first || changed == first {
		t.Errorf("other flags gave %q and other source %q; want neither to be %q", stamped, changed, first)
	}
}

func TestBinaryMayBeAskedForByManyAtOnce(t *testing.T) {
	dir := module(t)
	var group sync.WaitGroup
	files := make([]os.FileInfo, 4)
	for i := range files {
		group.Go(func() {
			path, err := build.Binary(t.Context(), dir, "server")
			if err != nil {
				t.Error(err)
				return
			}
			if files[i], err = os.Stat(path); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	for _, info := range files {
		if info == nil || !os.SameFile(files[0], info) {
			t.Fatal("the program was built more than once")
		}
	}
}

func TestBinarySaysWhyItCannotBeBuilt(t *testing.T) {
	dir := module(t)
	write(t, filepath.Join(dir, "main.go"), "package main\n\nfunc main() { undefined() }\n")
	_, err := build.Binary(t.Context(), dir, "server")
	if err == nil || !strings.Contains(err.Error(), "undefined: undefined") {
		t.Errorf("got %v, want the compiler's words", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := build.Binary(cancelled, dir, "server"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want the cancellation", err)
	}
}
