package rotation

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/internal/codec"
	"castellan.dev/internal/engine"
	"castellan.dev/workflows/rotation"
)

// The public command line, as anyone installs it.
const (
	tool        = "github.com/temporalio/cli/cmd/temporal"
	toolVersion = "v1.5.1"
)

// publicTool returns the path of the public `temporal` command line. It is built once and kept in the
// user's cache directory, because that takes minutes.
func publicTool(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, "castellan", "tools", "temporal-"+toolVersion)
	path := filepath.Join(dir, "temporal")
	if _, err := os.Stat(path); err == nil {
		return path
	} else if !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		t.Fatal(err)
	}
	building, err := os.MkdirTemp(filepath.Dir(dir), "building-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(building)
	t.Logf("building %s@%s once, into %s", tool, toolVersion, dir)
	install := exec.Command("go", "install", tool+"@"+toolVersion)
	install.Env = append(os.Environ(), "GOBIN="+building, "GOFLAGS=")
	if output, err := install.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", install, err, output)
	}
	// Another test process may have been faster; either result will do.
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(building, "temporal"), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// terminal runs the public command line as an operator would who typed eval "$(castellan-dev env)".
type terminal struct {
	path        string
	environment []string
}

func newTerminal(t *testing.T, h *house) terminal {
	environment := []string{"HOME=" + t.TempDir(), "PATH=" + os.Getenv("PATH")}
	return terminal{path: publicTool(t), environment: append(environment, engine.Environment(h.endpoints.Engine, h.endpoints.Namespace, h.files())...)}
}

func (c terminal) run(ctx context.Context, args ...string) (string, error) {
	command := exec.CommandContext(ctx, c.path, args...)
	command.Env = c.environment
	output, err := command.CombinedOutput()
	return string(output), err
}

func testPublicTool(t *testing.T, h *house) {
	c := newTerminal(t, h)
	id := rotation.WorkflowID("public")
	temporal := func(args ...string) string {
		t.Helper()
		output, err := c.run(t.Context(), append([]string{"workflow"}, append(args, "--workflow-id", id)...)...)
		if err != nil {
			t.Fatalf("temporal workflow %s: %v\n%s", strings.Join(args, " "), err, output)
		}
		return output
	}
	latest := func() string {
		live, err := h.plain.DescribeWorkflowExecution(t.Context(), id, "")
		if err != nil {
			t.Fatal(err)
		}
		return live.GetWorkflowExecutionInfo().GetExecution().GetRunId()
	}
	start := []string{"--type", rotation.Name, "--task-queue", activities.Control.Queue("")}

	temporal(append([]string{"signal-with-start", "--signal-name", rotation.RotateNow}, start...)...)
	now := h.end(t, "public", latest(), activities.Retired)
	if now.Trigger.Source != "operator" || !now.Trigger.Now {
		t.Errorf("trigger of a signal-with-start: got %+v, want an operator's, now", now.Trigger)
	}

	run := h.waiting(t, "public", func() string {
		temporal(append([]string{"start"}, start...)...)
		return latest()
	})
	state := func(what string, holds func(api.Live) bool) api.Live {
		t.Helper()
		return h.until(t, "public", run, what, holds)
	}
	paused := func(l api.Live) bool { return l.Paused != nil }
	going := func(l api.Live) bool { return l.Paused == nil }

	temporal("signal", "--name", rotation.Pause)
	state("a pause without input", paused)
	temporal("signal", "--name", rotation.Resume, "--input", `{"actor":"ann","reason":"back"}`)
	state("a resumption with an object", going)
	temporal("signal", "--name", rotation.Pause, "--input", `"lunch"`)
	if live := state("a pause with text", paused); live.Paused.Reason != "lunch" {
		t.Errorf("paused: got %+v, want the text as the reason", live.Paused)
	}
	temporal("signal", "--name", rotation.Resume)
	state("a resumption without input", going)
	temporal("signal", "--name", rotation.Resume)
	state("an ignored signal", func(l api.Live) bool { return strings.Contains(l.Note, "is not paused") })

	update := func(name string, more ...string) {
		t.Helper()
		temporal(append([]string{"update", "start", "--wait-for-stage", "accepted", "--name", name}, more...)...)
	}
	update(rotation.Pause, "--input", `{"actor":"ann"}`)
	if live := state("a pause by update", paused); live.Paused.Actor != "ann" {
		t.Errorf("paused: got %+v, want by ann", live.Paused)
	}
	update(rotation.Resume)
	state("a resumption by update without input", going)
	if output, err := c.run(t.Context(), "workflow", "update", "start", "--wait-for-stage", "accepted", "--name", rotation.Resume, "--workflow-id", id); err == nil {
		t.Errorf("an update that makes no sense was accepted: %s", output)
	}
	// Answers are sealed like everything else: without the keys the tool acts, and cannot show them.
	sealed := base64.StdEncoding.EncodeToString([]byte(codec.Encoding))
	for what, args := range map[string][]string{
		"update": {"update", "execute", "--name", rotation.Pause}, "query": {"query", "--type", rotation.QueryState},
	} {
		if output, _ := c.run(t.Context(), append(append([]string{"workflow"}, args...), "--workflow-id", id)...); !strings.Contains(output, codec.Encoding) && !strings.Contains(output, sealed) {
			t.Errorf("%s: got %q, want a sealed answer", what, output)
		}
	}
	state("a pause by an update whose answer was not understood", paused)
	update(rotation.Resume)
	state("the resumption", going)
	if output := temporal("describe", "--output", "json"); !strings.Contains(output, "WORKFLOW_EXECUTION_STATUS_RUNNING") {
		t.Errorf("describe: got %q, want a running workflow", output)
	}
	update(rotation.SkipWindow, "--input", `{"actor":"ann"}`)
	h.end(t, "public", run, activities.Retired)
}
