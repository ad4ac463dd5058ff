package engine

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"castellan.dev/activities"
	"castellan.dev/internal/identity"
)

func TestServerKeepsIdentitiesApart(t *testing.T) {
	h := openHouse(t, t.TempDir())
	control := activities.Control.Queue("")

	t.Run("a worker of one zone cannot take another's tasks", func(t *testing.T) {
		_, err := h.dial(t, "observe").WorkflowService().PollActivityTaskQueue(t.Context(), &workflowservice.PollActivityTaskQueueRequest{
			Namespace: h.engine.Namespace(), TaskQueue: queue(activities.Privileged.Queue("")),
		})
		var denied *serviceerror.PermissionDenied
		if !errors.As(err, &denied) {
			t.Fatalf("got error %v, want permission denied", err)
		}
		if !strings.Contains(denied.Reason, `identity "observe" may not PollActivityTaskQueue`) {
			t.Errorf("got reason %q, want the identity and what it tried", denied.Reason)
		}
	})
	t.Run("a worker cannot start a workflow", func(t *testing.T) {
		_, err := h.dial(t, "privileged").ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: control}, "test.nap")
		var denied *serviceerror.PermissionDenied
		if !errors.As(err, &denied) {
			t.Errorf("got error %v, want permission denied", err)
		}
	})
	t.Run("history names who started and signalled", func(t *testing.T) {
		operator := h.dial(t, identity.Operator)
		run, err := operator.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "stamped", TaskQueue: control}, "test.nap")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.dial(t, identity.Serve).SignalWorkflow(t.Context(), "stamped", run.GetRunID(), "pause", nil); err != nil {
			t.Fatal(err)
		}
		got := map[enumspb.EventType]string{}
		for events := operator.GetWorkflowHistory(t.Context(), "stamped", run.GetRunID(), false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); events.HasNext(); {
			event, err := events.Next()
			if err != nil {
				t.Fatal(err)
			}
			got[event.GetEventType()] = event.GetPrincipal().GetName()
		}
		if got, want := got[enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_STARTED], identity.Operator; got != want {
			t.Errorf("started by %q, want %q", got, want)
		}
		if got, want := got[enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_SIGNALED], identity.Serve; got != want {
			t.Errorf("signalled by %q, want %q", got, want)
		}
	})
	t.Run("search attributes are there", func(t *testing.T) {
		_, err := h.dial(t, identity.Operator).ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
			ID: "attributed", TaskQueue: control, TypedSearchAttributes: temporal.NewSearchAttributes(
				temporal.NewSearchAttributeKeyKeyword("CastellanTarget").ValueSet("payments"),
				temporal.NewSearchAttributeKeyKeywordList("CastellanAssets").ValueSet([]string{"a", "b"}),
			),
		}, "test.nap")
		if err != nil {
			t.Error(err)
		}
	})
}

// The variables are read here by the client library that the public tools share, in a process that
// knows nothing else.
func TestEnvironmentConnectsPublicTools(t *testing.T) {
	if os.Getenv("TEMPORAL_ADDRESS") != "" {
		t.Fatal("this test sets TEMPORAL_ADDRESS itself; unset it")
	}
	h := openHouse(t, t.TempDir())
	files := identity.FilesIn(t.TempDir(), identity.Operator)
	if _, err := identity.NewSource(t.Context(), identity.SourceConfig{Name: identity.Operator, Renewer: h.authority.Renewer(identity.Operator), Files: files}); err != nil {
		t.Fatal(err)
	}
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		environment []string
		want        bool
	}{
		"with the environment":    {h.engine.Environment(files), true},
		"without the certificate": {h.engine.Environment(files)[:4], false},
	} {
		command := exec.Command(executable)
		command.Env = append(append(os.Environ(), publicTool+"=1"), test.environment...)
		output, err := command.CombinedOutput()
		if (err == nil) != test.want {
			t.Errorf("%s: connected %v, want %v; output %q", name, err == nil, test.want, output)
		}
	}
}

// Certificates expire while the engine runs: connections that are open go on, and new ones get
// certificates that were renewed with the handshake.
func TestEngineOutlivesItsCertificates(t *testing.T) {
	var ahead atomic.Int64
	now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	dir := t.TempDir()
	authority, err := identity.OpenAuthority(identity.AuthorityConfig{Dir: dir, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	source := func(name string) *identity.Source {
		s, err := identity.NewSource(t.Context(), identity.SourceConfig{Name: name, Renewer: authority.Renewer(name), Now: now})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	e, err := Start(t.Context(), Config{Dir: filepath.Join(dir, "engine"), Identity: source(identity.Engine)})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Stop()
	operator := source(identity.Operator)
	kept, err := e.Dial(t.Context(), operator)
	if err != nil {
		t.Fatal(err)
	}
	defer kept.Close()
	for range 3 {
		ahead.Add(int64(10 * identity.DefaultLife))
		if _, err := kept.CheckHealth(t.Context(), nil); err != nil {
			t.Errorf("kept connection: %v", err)
		}
		fresh, err := e.Dial(t.Context(), operator)
		if err != nil {
			t.Fatalf("fresh connection: %v", err)
		}
		fresh.Close()
	}
}
