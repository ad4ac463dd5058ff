package histories

import (
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"castellan.dev/activities"
	"castellan.dev/workflows/rotation"
)

const (
	testdata = "testdata"
	sums     = "histories.sums"
)

// committed lists the recorded histories below a directory, with slashes, relative to it.
func committed(t *testing.T, dir string) []string {
	t.Helper()
	var paths []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".json.gz") {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		paths = append(paths, filepath.ToSlash(relative))
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return paths
}

// digest of a file below a directory.
func digest(dir, path string) (string, error) {
	content, err := os.ReadFile(filepath.Join(dir, filepath.FromSlash(path)))
	if err != nil {
		return "", err
	}
	hash := sha256.Sum256(content)
	return hex.EncodeToString(hash[:]), nil
}

// sum adds the digests of histories that have none yet.
func sum(t *testing.T, dir string) {
	t.Helper()
	known, err := os.ReadFile(filepath.Join(dir, sums))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	text := string(known)
	for _, path := range committed(t, dir) {
		if strings.Contains(text, "  "+path+"\n") {
			continue
		}
		hash, err := digest(dir, path)
		if err != nil {
			t.Fatal(err)
		}
		text += hash + "  " + path + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, sums), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// altered says what is wrong with the histories below a directory: each changed, vanished or unlisted one.
func altered(t *testing.T, dir string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, sums))
	if err != nil {
		t.Fatal(err)
	}
	var wrong, listed []string
	for line := range strings.Lines(string(text)) {
		hash, path, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok {
			wrong = append(wrong, fmt.Sprintf("%s: line %q is no digest and path", sums, line))
			continue
		}
		listed = append(listed, path)
		got, err := digest(dir, path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			wrong = append(wrong, path+": vanished")
		case err != nil:
			t.Fatal(err)
		case got != hash:
			wrong = append(wrong, path+": changed")
		}
	}
	for _, path := range committed(t, dir) {
		if !slices.Contains(listed, path) {
			wrong = append(wrong, path+": not listed in "+sums)
		}
	}
	return wrong
}

func TestCommittedHistoriesNeverChange(t *testing.T) {
	for _, wrong := range altered(t, testdata) {
		t.Error(wrong)
	}
	for sentence, change := range map[string]func(dir, path string) error{
		"changed":    func(dir, path string) error { return os.WriteFile(filepath.Join(dir, path), []byte("other"), 0o644) },
		"vanished":   func(dir, path string) error { return os.Remove(filepath.Join(dir, path)) },
		"not listed": func(dir, _ string) error { return os.WriteFile(filepath.Join(dir, "v0.1", "more.json.gz"), nil, 0o644) },
	} {
		t.Run(sentence+" is noticed", func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(testdata)); err != nil {
				t.Fatal(err)
			}
			if err := change(dir, committed(t, dir)[0]); err != nil {
				t.Fatal(err)
			}
			if wrong := altered(t, dir); len(wrong) != 1 || !strings.Contains(wrong[0], sentence) {
				t.Errorf("got %q, want one history that is %s", wrong, sentence)
			}
		})
	}
}

func load(t *testing.T, path string) *historypb.History {
	t.Helper()
	file, err := os.Open(filepath.Join(testdata, filepath.FromSlash(path)))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	history, err := client.HistoryFromJSON(unpacked, client.HistoryJSONOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return history
}

// replay runs the registered workflows over a history.
func replay(history *historypb.History, interceptors ...interceptor.WorkerInterceptor) error {
	replayer, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{Interceptors: interceptors})
	if err != nil {
		return err
	}
	rotation.Register(replayer)
	started := history.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes()
	return replayer.ReplayWorkflowHistoryWithOptions(slog.New(slog.DiscardHandler), history, worker.ReplayWorkflowHistoryOptions{
		OriginalExecution: workflow.Execution{ID: started.GetWorkflowId(), RunID: started.GetOriginalExecutionRunId()},
	})
}

func TestRecordedHistoriesReplay(t *testing.T) {
	types := map[string]bool{}
	for _, path := range committed(t, testdata) {
		t.Run(path, func(t *testing.T) {
			history := load(t, path)
			types[history.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().GetWorkflowType().GetName()] = true
			if err := replay(history); err != nil {
				t.Error(err)
			}
		})
	}
	for _, name := range []string{rotation.Name, rotation.SweepName} {
		if !types[name] {
			t.Errorf("no history of workflow type %q was replayed", name)
		}
	}
}

// The control: a workflow that takes two steps in the other order must not replay.
func TestReorderedStepsDoNotReplay(t *testing.T) {
	for _, pair := range [][2]string{
		{activities.Mint.Name, activities.SetStep.Name},
		{activities.Publish.Name, activities.Retire.Name},
	} {
		err := replay(load(t, "v0.1/rotation.happy.json.gz"), &swapped{pair: pair})
		if err == nil || !strings.Contains(strings.ToLower(err.Error()), "nondeterminis") && !strings.Contains(err.Error(), "TMPRL1100") {
			t.Errorf("%s and %s swapped: got %v, want a refusal as non-deterministic", pair[0], pair[1], err)
		}
	}
}

// swapped makes the workflow call one activity for the other.
type swapped struct {
	interceptor.WorkerInterceptorBase
	pair [2]string
}

func (s *swapped) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &swappedIn{interceptor.WorkflowInboundInterceptorBase{Next: next}, s.pair}
}

type swappedIn struct {
	interceptor.WorkflowInboundInterceptorBase
	pair [2]string
}

func (s *swappedIn) Init(next interceptor.WorkflowOutboundInterceptor) error {
	return s.Next.Init(&swappedOut{interceptor.WorkflowOutboundInterceptorBase{Next: next}, s.pair})
}

type swappedOut struct {
	interceptor.WorkflowOutboundInterceptorBase
	pair [2]string
}

func (s *swappedOut) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	switch name {
	case s.pair[0]:
		name = s.pair[1]
	case s.pair[1]:
		name = s.pair[0]
	}
	return s.Next.ExecuteActivity(ctx, name, args...)
}
