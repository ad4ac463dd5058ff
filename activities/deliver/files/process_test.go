package files_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
	"castellan.dev/activities/deliver/files"
	"castellan.dev/testsuite/conformance"
)

// errand is what a child process shall do: publish the material once, or go on publishing for ever.
type errand struct {
	Config   files.Config
	Material deliver.Material
	Expected string
	Churn    bool
}

const errandVariable = "CASTELLAN_TEST_ERRAND"

// TestChild is the child process of the tests below. Without an errand it does nothing.
func TestChild(t *testing.T) {
	path := os.Getenv(errandVariable)
	if path == "" {
		return
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var e errand
	if err := json.Unmarshal(text, &e); err != nil {
		t.Fatal(err)
	}
	d := files.New(e.Config, "", time.Now)
	if !e.Churn {
		if _, err := d.Publish(t.Context(), e.Material, e.Expected); err != nil {
			t.Fatal(err)
		}
		return
	}
	ca := conformance.NewAuthority(t, "churn")
	for {
		if err := advance(t, d, ca); err != nil {
			t.Fatal(err)
		}
	}
}

// advance publishes one more epoch, and every now and then restores or retires.
func advance(t *testing.T, d *files.Deliverer, ca *conformance.Authority) error {
	seen, err := d.Observe(t.Context())
	if err != nil {
		return err
	}
	m := ca.Material(t, seen.Epoch+1)
	if _, err := d.Publish(t.Context(), m, seen.Fingerprint); err != nil {
		return err
	}
	switch m.Epoch % 3 {
	case 0:
		return d.Retire(t.Context(), m.Epoch)
	case 1:
		_, err = d.Restore(t.Context(), m.Epoch, m.Epoch+1)
		if activities.KindOf(err) == activities.NotFound {
			err = nil
		}
	}
	return err
}

// start runs an errand in a process of its own.
func start(t *testing.T, e errand) *exec.Cmd {
	t.Helper()
	text, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "errand.json")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	child := exec.Command(os.Args[0], "-test.run=^TestChild$")
	child.Env = append(os.Environ(), errandVariable+"="+path)
	child.Stdout, child.Stderr = os.Stderr, os.Stderr
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = child.Process.Kill() })
	return child
}

// TestKilledAtRandomPoints kills a process that publishes, restores and retires without pause, again and
// again. A reader never meets a pair that does not fit, and repeating repairs whatever was left.
func TestKilledAtRandomPoints(t *testing.T) {
	const rounds = 12
	for _, layout := range []string{files.Generation, files.Combined} {
		t.Run(layout, func(t *testing.T) {
			c := place(t, layout)
			d := files.New(c, "", time.Now)
			ca := conformance.NewAuthority(t, "parent")
			first := ca.Material(t, 1)
			if _, err := d.Publish(t.Context(), first, ""); err != nil {
				t.Fatal(err)
			}
			readings, stop := watch(t, c)
			defer stop()
			for range rounds {
				before, err := d.Observe(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				child := start(t, errand{Config: c, Churn: true})
				waitFor(t, "the child to publish", func() bool {
					seen, err := d.Observe(t.Context())
					return err == nil && seen.Epoch > before.Epoch
				})
				enough := readings.Load() + rand.Int64N(200)
				waitFor(t, "some readings", func() bool { return readings.Load() >= enough })
				_ = child.Process.Kill()
				_ = child.Wait()
				wantRepaired(t, c, d, ca, before.Epoch)
			}
		})
	}
}

// watch reads as a consumer until it is stopped.
func watch(t *testing.T, c files.Config) (readings *atomic.Int64, stop func()) {
	readings = new(atomic.Int64)
	done := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
			}
			chain, key, err := read(c)
			readings.Add(1)
			if err != nil {
				continue // its generation was cleared away by the change after next: it reads again
			}
			if _, err := tls.X509KeyPair(chain, key); err != nil {
				t.Errorf("a reader met a pair that does not fit: %v", err)
				return
			}
		}
	})
	return readings, sync.OnceFunc(func() { close(done); reading.Wait() })
}

// wantRepaired checks what a crash left: the fence never fell, the next publication works, and nothing
// of castellan's own lies about.
func wantRepaired(t *testing.T, c files.Config, d *files.Deliverer, ca *conformance.Authority, floor activities.Epoch) {
	t.Helper()
	seen, err := d.Observe(t.Context())
	if err != nil {
		t.Fatalf("observe after a crash: %v", err)
	}
	if seen.Foreign || seen.Epoch <= floor {
		t.Fatalf("after a crash: foreign %v, epoch %d; want false and more than %d", seen.Foreign, seen.Epoch, floor)
	}
	m := ca.Material(t, seen.Epoch+1)
	if _, err := d.Publish(t.Context(), m, seen.Fingerprint); err != nil {
		t.Fatalf("publish after a crash: %v", err)
	}
	if err := d.Retire(t.Context(), m.Epoch); err != nil {
		t.Fatalf("retire after a crash: %v", err)
	}
	chain, key, err := read(c)
	if err != nil || !bytes.Contains(chain, m.Chain) || !bytes.Contains(key, m.Key) {
		t.Fatalf("after a crash and a publication, consumers do not read the candidate (%v)", err)
	}
	wantClean(t, c)
}

// wantClean checks that nothing but what is served lies in the served directory, and no key in the
// state directory.
func wantClean(t *testing.T, c files.Config) {
	t.Helper()
	served := c.Directory
	if served == "" {
		served = filepath.Dir(c.Path)
	}
	var got []string
	for _, pattern := range []string{"*", "generations/*"} {
		found, err := filepath.Glob(filepath.Join(served, pattern))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, found...)
	}
	hidden, _ := filepath.Glob(filepath.Join(served, ".castellan*"))
	if want := map[string]int{files.Generation: 3, files.Combined: 1}[c.Layout]; len(got)+len(hidden) != want {
		t.Errorf("the served directory holds %v and %v, want %d names", got, hidden, want)
	}
	if kept, err := below(c.State, func(string) bool { return true }); err != nil || bytes.Contains(kept, []byte("PRIVATE KEY")) {
		t.Errorf("the state directory still holds a key (%v)", err)
	}
}

// TestStoppedBetweenCheckAndFlip stops a process after it has passed the fence and before it flips. A
// newer epoch must not get past it, and when it goes on, it must not restore its older epoch over a
// newer one.
func TestStoppedBetweenCheckAndFlip(t *testing.T) {
	c := place(t, files.Generation)
	ca := conformance.NewAuthority(t, "zombies")
	d := files.New(c, "", time.Now)
	previous := ca.Material(t, 1)
	if _, err := d.Publish(t.Context(), previous, ""); err != nil {
		t.Fatal(err)
	}
	for name, revive := range map[string]syscall.Signal{"and continued": syscall.SIGCONT, "and killed": syscall.SIGKILL} {
		t.Run(name, func(t *testing.T) {
			zombie, late, before := stopMidway(t, c, ca)
			impatient := c
			impatient.LockWait = 20 * time.Millisecond
			newer := ca.Material(t, late.Epoch+1)
			_, err := files.New(impatient, "", time.Now).Publish(t.Context(), newer, before)
			if err == nil || activities.KindOf(err) != activities.Transient {
				t.Fatalf("while an older epoch holds the lock, a newer one got %v, want kind %q", err, activities.Transient)
			}
			wantServed(t, c, before)

			published := make(chan error, 1)
			go func() { published <- insist(t.Context(), c, newer) }()
			if err := zombie.Process.Signal(revive); err != nil {
				t.Fatal(err)
			}
			_ = zombie.Wait()
			if err := <-published; err != nil {
				t.Fatalf("the newer epoch, after the older one ended: %v", err)
			}
			wantServed(t, c, newer.Fingerprint)
			if _, err := d.Publish(t.Context(), late, newer.Fingerprint); activities.KindOf(err) != activities.Fenced {
				t.Errorf("the older epoch, again: got %v, want kind %q", err, activities.Fenced)
			}
			wantServed(t, c, newer.Fingerprint)
			if err := d.Retire(t.Context(), newer.Epoch); err != nil {
				t.Fatal(err)
			}
			wantClean(t, c)
		})
	}
}

// insist publishes as a workflow does: after a conflict or a held lock it observes and tries again.
func insist(ctx context.Context, c files.Config, m deliver.Material) error {
	d := files.New(c, "", time.Now)
	for {
		seen, err := d.Observe(ctx)
		if err == nil {
			_, err = d.Publish(ctx, m, seen.Fingerprint)
		}
		if kind := activities.KindOf(err); err == nil || kind != activities.Conflict && kind != activities.Transient {
			return err
		}
	}
}

// stopMidway returns a process stopped between fence check and flip, what it publishes, and what is
// served meanwhile. The moment is found from outside: the generation is there, the link has not moved.
func stopMidway(t *testing.T, c files.Config, ca *conformance.Authority) (*exec.Cmd, deliver.Material, string) {
	t.Helper()
	d := files.New(c, "", time.Now)
	for range 100 {
		seen, err := d.Observe(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		m := ca.Material(t, seen.Epoch+1)
		m.Bundle = bytes.Repeat(m.Bundle, 2000) // more to write widens the moment
		child := start(t, errand{Config: c, Material: m, Expected: seen.Fingerprint})
		pattern := filepath.Join(c.Directory, "generations", "*"+m.Fingerprint[:8]+"*")
		waitFor(t, "the generation to appear", func() bool {
			found, _ := filepath.Glob(pattern)
			return len(found) > 0
		})
		_ = child.Process.Signal(syscall.SIGSTOP)
		var status syscall.WaitStatus
		if _, err := syscall.Wait4(child.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil {
			t.Fatal(err)
		}
		if !status.Stopped() {
			continue // it had ended already
		}
		link, err := os.Readlink(filepath.Join(c.Directory, "current"))
		if err == nil && !strings.Contains(link, m.Fingerprint[:8]) {
			return child, m, seen.Fingerprint
		}
		_ = child.Process.Signal(syscall.SIGCONT)
		_ = child.Wait()
	}
	t.Fatal("in 100 tries the process was never stopped between check and flip")
	return nil, deliver.Material{}, ""
}

func wantServed(t *testing.T, c files.Config, fingerprint string) {
	t.Helper()
	seen, err := files.New(c, "", time.Now).Observe(t.Context())
	if err != nil || seen.Fingerprint != fingerprint {
		t.Errorf("served is %q (%v), want %q", seen.Fingerprint, err, fingerprint)
	}
}

// waitFor polls a condition until it holds; the limit only ends a test that hangs.
func waitFor(t *testing.T, what string, condition func() bool) {
	t.Helper()
	limit := time.Now().Add(time.Minute)
	for !condition() {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(200 * time.Microsecond)
	}
}
