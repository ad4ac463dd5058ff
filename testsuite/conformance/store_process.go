package conformance

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
	"castellan.dev/testsuite/leak"
)

const childVariable = "CASTELLAN_STORE_CHILD"

// storeTask is what a child process is to do; it arrives on standard input.
type storeTask struct {
	Spec    string
	Act     string // increment, write, erase
	Name    string
	Seed    string
	Count   int
	Version store.Version // where to begin
}

// StoreChild turns the test binary into a child of the suite when the suite has started it as one. An
// implementation calls it first in TestMain, with a function that opens the store that a fixture's
// Spec describes.
func StoreChild(open func(spec string) (store.Store, error)) {
	if os.Getenv(childVariable) == "" {
		return
	}
	input := bufio.NewReader(os.Stdin)
	var do storeTask
	line, err := input.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &do)
	}
	var s store.Store
	if err == nil {
		s, err = open(do.Spec)
	}
	if err == nil {
		fmt.Println("ready")
		_, err = input.ReadBytes('\n') // all children begin together
	}
	if err == nil {
		err = do.run(s)
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// run does the task and acknowledges each effect with a line.
func (d storeTask) run(s store.Store) error {
	for i := range d.Count {
		version := d.Version + store.Version(i)
		var err error
		switch d.Act {
		case "increment":
			version, err = increment(context.Background(), s, d.Name)
		case "write":
			version, err = s.Write(context.Background(), d.Name, childContent(d.Seed, version+1), version)
		case "erase":
			err = s.Erase(context.Background(), d.Name, version)
		}
		if err != nil {
			return err
		}
		fmt.Println("acknowledged", version)
	}
	return nil
}

// childContent is the value of one version: it begins with the seed, which the suite searches for, and any
// part of it tells whether the rest is right.
func childContent(seed string, version store.Version) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", seed, version))
	return append([]byte(seed), bytes.Repeat(sum[:], 512)...)
}

// storeChild is a running child process.
type storeChild struct {
	t       *testing.T
	command *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Scanner
}

// startChild starts a child that waits for release.
func startChild(t *testing.T, do storeTask) *storeChild {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &storeChild{t: t, command: exec.Command(program)}
	c.command.Env = append(os.Environ(), childVariable+"=1")
	c.command.Stderr = os.Stderr
	if c.input, err = c.command.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := c.command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.output = bufio.NewScanner(output)
	if err := c.command.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.kill() })
	line, err := json.Marshal(do)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.input.Write(append(line, '\n')); err != nil {
		t.Fatal(err)
	}
	if !c.output.Scan() || c.output.Text() != "ready" {
		t.Fatalf("child: got %q, want it ready: does TestMain call StoreChild?", c.output.Text())
	}
	return c
}

func (c *storeChild) release() {
	if _, err := c.input.Write([]byte("\n")); err != nil {
		c.t.Error(err)
	}
}

// acknowledged reads up to limit acknowledgements; zero reads all until the child ends.
func (c *storeChild) acknowledged(limit int) []store.Version {
	var versions []store.Version
	for (limit == 0 || len(versions) < limit) && c.output.Scan() {
		var version store.Version
		if _, err := fmt.Sscanf(c.output.Text(), "acknowledged %d", &version); err != nil {
			c.t.Errorf("child: %s", c.output.Text())
			break
		}
		versions = append(versions, version)
	}
	return versions
}

// kill ends the child as a power switch does and returns what it still acknowledged before. It may be
// called again.
func (c *storeChild) kill() []store.Version {
	_ = c.command.Process.Kill() // it may have ended
	rest := c.acknowledged(0)    // before Wait, which closes the pipe
	_ = c.command.Wait()
	return rest
}

func storeProcesses(t *testing.T, f StoreFixture) {
	if f.Spec == "" {
		t.Skip("this store cannot be opened by another process")
	}
	name := f.Prefix + "counter"
	children := make([]*storeChild, 3)
	for i := range children {
		children[i] = startChild(t, storeTask{Spec: f.Spec, Act: "increment", Name: name, Count: 15})
	}
	for _, c := range children {
		c.release()
	}
	seen := map[store.Version]bool{}
	for _, c := range children {
		for _, version := range c.acknowledged(0) {
			if seen[version] {
				t.Errorf("version %d was acknowledged twice", version)
			}
			seen[version] = true
		}
	}
	wantStored(t, f.Store, name, 45, "45")
}

func storeKilledWriter(t *testing.T, f StoreFixture) {
	if f.Spec == "" || f.Reopen == nil {
		t.Skip("this store cannot be opened by another process")
	}
	for round := range 6 {
		canary := leak.New("written by a killed process", "seed "+hex.EncodeToString(fmt.Appendf(nil, "%016x", rand.Uint64())))
		name, seed := fmt.Sprintf("%skilled/%d", f.Prefix, round), string(canary.Value.Reveal())
		c := startChild(t, storeTask{Spec: f.Spec, Act: "write", Name: name, Seed: seed, Count: 1 << 20})
		c.release()
		acknowledged := c.acknowledged(1 + rand.IntN(20))
		time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond) // so that death comes at any point of a write
		// What the child acknowledged between our last look and its death counts as well.
		acknowledged = append(acknowledged, c.kill()...)
		for _, dir := range f.Dirs {
			leak.Check(t, []leak.Canary{canary}, leak.Dir(dir))
		}
		after := f.Reopen(t)
		infos, err := after.Versions(t.Context(), name)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if extra := len(infos) - len(acknowledged); extra < 0 || extra > 1 {
			t.Errorf("round %d: got %d versions, want the %d acknowledged and at most the one under way", round, len(infos), len(acknowledged))
		}
		for _, info := range infos {
			got, err := after.ReadVersion(t.Context(), name, info.Version)
			if err != nil || !bytes.Equal(got.Value, childContent(seed, info.Version)) {
				t.Errorf("round %d: version %d: got %d bytes, %v, want it whole", round, info.Version, len(got.Value), err)
			}
		}
		mustWrite(t, after, name, []byte("the next writer"), store.Version(len(infos)))
	}
}

func storeKilledEraser(t *testing.T, f StoreFixture) {
	if f.Spec == "" || f.Reopen == nil {
		t.Skip("this store cannot be opened by another process")
	}
	const versions = 24
	for round := range 3 {
		name, seed := fmt.Sprintf("%sdoomed/%d", f.Prefix, round), strings.Repeat("s", round+1)
		for version := store.Version(1); version <= versions; version++ {
			mustWrite(t, f.Store, name, childContent(seed, version), version-1)
		}
		c := startChild(t, storeTask{Spec: f.Spec, Act: "erase", Name: name, Count: versions, Version: 1})
		c.release()
		erased := c.acknowledged(1 + rand.IntN(versions/2))
		time.Sleep(time.Duration(rand.IntN(4000)) * time.Microsecond)
		erased = append(erased, c.kill()...)
		after := f.Reopen(t)
		for version := store.Version(1); version <= versions; version++ {
			got, err := after.ReadVersion(t.Context(), name, version)
			gone := err != nil && activities.KindOf(err) == activities.NotFound
			whole := err == nil && bytes.Equal(got.Value, childContent(seed, version))
			switch done := store.Version(len(erased)); {
			case version <= done && !gone:
				t.Errorf("round %d: version %d was erased: got %v, want %s", round, version, err, activities.NotFound)
			case version == done+1 && !gone && !whole, version > done+1 && !whole:
				t.Errorf("round %d: version %d of %d erased: got %v, want it whole", round, version, done, err)
			}
		}
	}
}
