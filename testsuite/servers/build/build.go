// Package build makes the real servers that tests run against: Go programs in modules of their own
// under testsuite/servers, linked once per version and kept in a cache directory that CI can save.
//
// The cache is $CASTELLAN_CACHE, or "castellan" in the user's cache directory; a program's file name
// is the digest of everything that it is made of, so a changed requirement or source line is a new
// program and an unchanged one is never linked twice. The package must not be used for what ships.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Binary returns the path of the program that the Go module in moduleDir makes, and builds it first
// if the cache does not hold it. Name is the program's file name; ldflags go to the linker. Any
// number of processes may ask at the same time: one builds, the others wait.
func Binary(ctx context.Context, moduleDir, name string, ldflags ...string) (string, error) {
	digest, err := digest(moduleDir, ldflags)
	if err != nil {
		return "", fmt.Errorf("digest module %q: %w", moduleDir, err)
	}
	cache, err := cacheDir()
	if err != nil {
		return "", fmt.Errorf("find cache directory: %w", err)
	}
	dir := filepath.Join(cache, "servers", digest)
	program := filepath.Join(dir, name)
	if exists(program) {
		return program, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache directory: %w", err)
	}
	unlock, err := lock(ctx, program+".lock")
	if err != nil {
		return "", fmt.Errorf("lock %q: %w", program, err)
	}
	defer unlock()
	if exists(program) { // another process built it while this one waited
		return program, nil
	}
	if err := compile(ctx, moduleDir, program, ldflags); err != nil {
		return "", fmt.Errorf("build %s: %w", name, err)
	}
	return program, nil
}

// compile links the program beside its place and moves it there, so that the place never holds half
// a program.
func compile(ctx context.Context, moduleDir, program string, ldflags []string) error {
	name, started := filepath.Base(program), time.Now()
	fmt.Fprintf(os.Stderr, "building %s for the tests, once per version; minutes when it is the first time\n", name)
	partial := program + ".partial"
	command := exec.CommandContext(ctx, goTool(), "build", "-buildvcs=false", "-ldflags", strings.Join(ldflags, " "), "-o", partial, ".")
	command.Dir = moduleDir
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0", "GOEXPERIMENT=")
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	if err := command.Start(); err != nil {
		return err
	}
	yield(command.Process.Pid)
	if err := command.Wait(); err != nil {
		return fmt.Errorf("%w\n%s", err, tail(output.String(), 4096))
	}
	if err := os.Rename(partial, program); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "built %s in %s\n", name, time.Since(started).Round(time.Second))
	return nil
}

// digest names what a program is made of: the module's files, the linker's flags, the platform.
func digest(moduleDir string, ldflags []string) (string, error) {
	var files []string
	err := filepath.WalkDir(moduleDir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		source := strings.HasSuffix(path, ".go") && !strings.HasSuffix(path, "_test.go")
		if !entry.IsDir() && (source || entry.Name() == "go.mod" || entry.Name() == "go.sum") {
			files = append(files, path)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	slices.Sort(files)
	hash := sha256.New()
	fmt.Fprintf(hash, "%s/%s %q\n", runtime.GOOS, runtime.GOARCH, ldflags)
	for _, path := range files {
		if err := digestFile(hash, moduleDir, path); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil))[:16], nil
}

func digestFile(hash io.Writer, moduleDir, path string) error {
	relative, err := filepath.Rel(moduleDir, path)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(hash, "%s %d\n%s\n", filepath.ToSlash(relative), len(content), content)
	return err
}

func cacheDir() (string, error) {
	if dir := os.Getenv("CASTELLAN_CACHE"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	return filepath.Join(dir, "castellan"), err
}

// goTool prefers the go command of the toolchain that runs the tests, which PATH need not hold.
func goTool() string {
	if path, err := exec.LookPath("go"); err == nil {
		return path
	}
	return filepath.Join(runtime.GOROOT(), "bin", "go")
}

func exists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

func tail(text string, length int) string {
	if len(text) <= length {
		return text
	}
	return "..." + text[len(text)-length:]
}
