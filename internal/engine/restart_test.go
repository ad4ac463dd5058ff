package engine

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/contrib/envconfig"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"castellan.dev/activities"
	"castellan.dev/internal/identity"
)

// childDir tells this test binary to be an engine over that directory until it is killed.
const childDir = "CASTELLAN_TEST_ENGINE_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		os.Exit(child(dir))
	}
	if os.Getenv(publicTool) != "" {
		os.Exit(connectAsPublicTool())
	}
	os.Exit(m.Run())
}

// publicTool tells this test binary to connect the way the `temporal` command line does.
const publicTool = "CASTELLAN_TEST_PUBLIC_TOOL"

func connectAsPublicTool() int {
	options, err := envconfig.LoadDefaultClientOptions()
	if err == nil {
		var c client.Client
		if c, err = client.Dial(options); err == nil {
			_, err = c.ListWorkflow(context.Background(), &workflowservice.ListWorkflowExecutionsRequest{})
		}
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// child starts an engine and a workflow that waits for a timer, and says so.
func child(dir string) int {
	ctx := context.Background()
	err := func() error {
		h, err := newHouse(ctx, dir)
		if err != nil {
			return err
		}
		source, err := h.source(ctx, identity.Dev)
		if err != nil {
			return err
		}
		c, err := h.engine.Dial(ctx, source)
		if err != nil {
			return err
		}
		w := napper(c)
		if err := w.Start(); err != nil {
			return err
		}
		run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "nap", TaskQueue: activities.Control.Queue("")}, "test.nap", 3*time.Second)
		if err != nil {
			return err
		}
		// The query is answered only after the timer was scheduled.
		value, err := c.QueryWorkflow(ctx, "nap", run.GetRunID(), "napping")
		if err != nil {
			return err
		}
		var napping bool
		if err := value.Get(&napping); err != nil || !napping {
			return fmt.Errorf("workflow is not napping: %v", err)
		}
		fmt.Println("run", run.GetRunID())
		return nil
	}()
	if err != nil {
		fmt.Println("error", err)
		return 1
	}
	select {} // until killed
}

func napper(c client.Client) worker.Worker {
	w := worker.New(c, activities.Control.Queue(""), worker.Options{})
	w.RegisterWorkflowWithOptions(func(ctx workflow.Context, length time.Duration) (string, error) {
		napping := false
		if err := workflow.SetQueryHandler(ctx, "napping", func() (bool, error) { return napping, nil }); err != nil {
			return "", err
		}
		timer := workflow.NewTimer(ctx, length)
		napping = true
		return "rested", timer.Get(ctx, nil)
	}, workflow.RegisterOptions{Name: "test.nap"})
	return w
}

func TestWorkflowFinishesAfterTheEngineWasKilled(t *testing.T) {
	dir := t.TempDir()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command(executable)
	command.Env = append(os.Environ(), childDir+"="+dir)
	output, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	line, _ := bufio.NewReader(output).ReadString('\n')
	command.Process.Kill()
	command.Wait()
	runID, ok := strings.CutPrefix(strings.TrimSpace(line), "run ")
	if !ok {
		t.Fatalf("child engine: %q", line)
	}

	h := openHouse(t, dir)
	c := h.dial(t, identity.Dev)
	w := napper(c)
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var got string
	if err := c.GetWorkflow(t.Context(), "nap", runID).Get(t.Context(), &got); err != nil {
		t.Fatal(err)
	}
	if want := "rested"; got != want {
		t.Errorf("workflow returned %q, want %q", got, want)
	}
}

func TestSecondEngineOverTheSameFilesIsRefused(t *testing.T) {
	h := openHouse(t, t.TempDir())
	if _, err := newHouse(t.Context(), h.dir); err == nil || !strings.Contains(err.Error(), "already running") {
		t.Errorf("second start: got error %v, want one that says an engine is already running", err)
	}
	if err := Reset(h.engine.config.Dir); err == nil {
		t.Error("reset under a running engine was not refused")
	}
}

func TestFileOfAnotherServerVersionIsRefused(t *testing.T) {
	tests := map[string]struct {
		version string // empty removes the version file
		want    []string
	}{
		"an earlier version":   {"1.31.0", []string{"1.31.0", Version, "castellan-dev engine reset"}},
		"a later version":      {"2.0.0", []string{"2.0.0", Version, "castellan-dev engine reset"}},
		"no version at all":    {"", []string{"unknown", Version, "castellan-dev engine reset"}},
		"this version, beside": {Version, nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(name, content string) {
				if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(databaseFile, "a database")
			if test.version != "" {
				write(versionFile, test.version+"\n")
			}
			err := prepare(dir, func() error { t.Error("set-up ran over an existing file"); return nil })
			if (err != nil) != (test.want != nil) {
				t.Fatalf("got error %v, want one: %v", err, test.want != nil)
			}
			for _, part := range test.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("error %q does not mention %q", err, part)
				}
			}
			if err != nil && strings.Contains(err.Error(), "\n") {
				t.Errorf("error %q is more than one sentence", err)
			}
		})
	}
}

func TestSetupThatWasCutOffIsDoneAgain(t *testing.T) {
	dir := t.TempDir()
	cut := fmt.Errorf("power cut")
	half := func() error {
		if err := os.WriteFile(filepath.Join(dir, databaseFile), []byte("half"), 0o600); err != nil {
			return err
		}
		return cut
	}
	if err := prepare(dir, half); err != cut {
		t.Fatalf("got error %v, want %v", err, cut)
	}
	ran := false
	if err := prepare(dir, func() error {
		ran = true
		if exists(filepath.Join(dir, databaseFile)) {
			t.Error("the half-made file was kept")
		}
		return os.WriteFile(filepath.Join(dir, databaseFile), []byte("whole"), 0o600)
	}); err != nil || !ran {
		t.Errorf("second set-up: ran %v, error %v", ran, err)
	}
	if err := prepare(dir, func() error { return cut }); err != nil {
		t.Errorf("third start: %v, want the file to be used", err)
	}
}

func TestResetTakesTheEnginesFilesOnly(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{databaseFile, databaseFile + "-wal", databaseFile + "-shm", versionFile, "ledger.db", "root.pem"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := Reset(dir); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, entry := range entries {
		got = append(got, entry.Name())
	}
	if diff := cmp.Diff([]string{lockFile, "ledger.db", "root.pem"}, got); diff != "" {
		t.Errorf("files after the reset (-want +got):\n%s", diff)
	}
	if err := Reset(filepath.Join(dir, "absent")); err != nil {
		t.Errorf("reset of nothing: %v", err)
	}
}

func TestEngineStartsOverFilesThatWereReplaced(t *testing.T) {
	h := openHouse(t, t.TempDir())
	dir := h.engine.config.Dir
	c := h.dial(t, identity.Operator)
	if _, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "gone", TaskQueue: activities.Control.Queue("")}, "test.nap"); err != nil {
		t.Fatal(err)
	}
	if err := h.engine.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := Reset(dir); err != nil {
		t.Fatal(err)
	}
	again := openHouse(t, h.dir)
	if _, err := again.dial(t, identity.Operator).DescribeWorkflowExecution(t.Context(), "gone", ""); err == nil {
		t.Error("a workflow survived the reset: the engine still uses the file that was removed")
	}
}
