package codec_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/internal/codec"
	"castellan.dev/internal/keyring"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

// order is an argument with a structure, as an operator types it.
type order struct {
	Reason string `json:"reason"`
	Count  int    `json:"count"`
}

// operated takes an order by every message kind and answers with all that it got.
func operated(ctx workflow.Context, input order) ([]order, error) {
	got := []order{input}
	err := workflow.SetQueryHandler(ctx, "state", func(filter order, extra *order) ([]order, error) {
		if filter.Count < 0 {
			return nil, errors.New("negative count")
		}
		return append(got, filter), nil
	})
	if err != nil {
		return nil, err
	}
	if err := workflow.SetQueryHandler(ctx, "bare", func() (int, error) { return len(got), nil }); err != nil {
		return nil, err
	}
	err = workflow.SetUpdateHandlerWithOptions(ctx, "pause", func(_ workflow.Context, o order) (int, error) {
		got = append(got, o)
		return o.Count, nil
	}, workflow.UpdateHandlerOptions{Validator: func(_ workflow.Context, o order) error {
		if o.Reason == "" {
			return errors.New("a reason is needed")
		}
		return nil
	}})
	if err != nil {
		return nil, err
	}
	if err := workflow.SetUpdateHandler(ctx, "unchecked", func(_ workflow.Context, o *order) error { got = append(got, *o); return nil }); err != nil {
		return nil, err
	}
	for {
		var o order
		workflow.GetSignalChannel(ctx, "order").Receive(ctx, &o)
		got = append(got, o)
		if o.Reason == "end" {
			return got, nil
		}
	}
}

func registerOperated(r worker.Registry) {
	r.RegisterWorkflowWithOptions(operated, workflow.RegisterOptions{Name: "operated"})
}

// start starts an operated workflow with an encrypted input.
func start(t *testing.T, c client.Client, queue string) client.WorkflowRun {
	t.Helper()
	run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: queue, WorkflowTaskTimeout: 2 * time.Second}, "operated", order{Reason: "started"})
	must(t, err)
	return run
}

func update(t *testing.T, c client.Client, run client.WorkflowRun, name string, args ...any) error {
	t.Helper()
	handle, err := c.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{WorkflowID: run.GetID(), UpdateName: name,
		WaitForStage: client.WorkflowUpdateStageCompleted, Args: args})
	if err != nil {
		return err
	}
	return handle.Get(t.Context(), nil) // a caller without the key can't read more than the outcome
}

func TestOperatorsMaySendPlainMessages(t *testing.T) {
	ring, _ := newRing(t)
	c, _ := dial(t, newCodec(t, ring, server().GetDefaultNamespace()))
	plain, _ := dial(t, nil) // the `temporal` command line
	stop := work(t, c, "operated", registerOperated)
	run := start(t, c, "operated")

	must(t, plain.SignalWorkflow(t.Context(), run.GetID(), "", "order", order{Reason: "plain signal"}))
	must(t, plain.SignalWorkflow(t.Context(), run.GetID(), "", "order", "not an order")) // ignored, as without the codec
	must(t, c.SignalWorkflow(t.Context(), run.GetID(), "", "order", order{Reason: "encrypted signal"}))
	for name, caller := range map[string]client.Client{"plain": plain, "encrypted": c} {
		must(t, update(t, caller, run, "pause", order{Reason: name + " update"}))
		must(t, update(t, caller, run, "unchecked", order{Reason: name + " unchecked update"}))
		for what, args := range map[string][]any{"invalid": {order{}}, "undecodable": {"text"}, "missing": nil} {
			if err := update(t, caller, run, "pause", args...); err == nil {
				t.Errorf("%s update, %s: want it refused", name, what)
			}
		}
		for _, query := range []string{"state", "bare"} {
			_, err := caller.QueryWorkflow(t.Context(), run.GetID(), "", query, order{Reason: "q"})
			must(t, err)
		}
		for what, argument := range map[string]any{"refused by the handler": order{Count: -1}, "undecodable": "text"} {
			if _, err := caller.QueryWorkflow(t.Context(), run.GetID(), "", "state", argument); err == nil {
				t.Errorf("%s query, %s: want an error", name, what)
			}
		}
	}
	// A worker that knows nothing of the run replays it, with everything plain in its history.
	stop()
	work(t, c, "operated", registerOperated)
	must(t, plain.SignalWorkflow(t.Context(), run.GetID(), "", "order", order{Reason: "end"}))
	var got []order
	must(t, run.Get(t.Context(), &got))
	seen := fmt.Sprint(got)
	for _, want := range []string{"started", "plain signal", "encrypted signal", "plain update", "encrypted update", "plain unchecked", "encrypted unchecked", "end"} {
		if strings.Count(seen, "{"+want) != 1 {
			t.Errorf("got %s, want %q once", seen, want)
		}
	}

	// The same history replays outside a server, as recorded histories do.
	var history historypb.History
	events := c.GetWorkflowHistory(t.Context(), run.GetID(), "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		must(t, err)
		history.Events = append(history.Events, event)
	}
	payloadCodec := newCodec(t, ring, server().GetDefaultNamespace())
	replayer, err := worker.NewWorkflowReplayerWithOptions(worker.WorkflowReplayerOptions{
		DataConverter: codec.NewDataConverter(payloadCodec), FailureConverter: codec.NewFailureConverter(payloadCodec),
		Interceptors: []interceptor.WorkerInterceptor{codec.NewInterceptor(payloadCodec)},
	})
	must(t, err)
	replayer.RegisterWorkflowWithOptions(operated, workflow.RegisterOptions{Name: "operated"})
	must(t, replayer.ReplayWorkflowHistory(nil, &history))
}

func TestPlainInputsAreRefused(t *testing.T) {
	ring, _ := newRing(t)
	c, _ := dial(t, newCodec(t, ring, server().GetDefaultNamespace()))
	plain, _ := dial(t, nil)
	ran := make(chan string, 10)
	work(t, c, "guarded", func(r worker.Registry) {
		registerOperated(r)
		r.RegisterActivityWithOptions(func(_ context.Context, o order) error { ran <- o.Reason; return nil }, activity.RegisterOptions{Name: "act"})
	})
	// A worker without the key schedules activities and children at workers that have one.
	work(t, plain, "intruder", func(r worker.Registry) {
		r.RegisterWorkflowWithOptions(func(ctx workflow.Context) error {
			ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{TaskQueue: "guarded", StartToCloseTimeout: time.Minute})
			return workflow.ExecuteActivity(ctx, "act", order{Reason: "plain activity input"}).Get(ctx, nil)
		}, workflow.RegisterOptions{Name: "intrude by activity"})
		r.RegisterWorkflowWithOptions(func(ctx workflow.Context) error {
			ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{TaskQueue: "guarded"})
			return workflow.ExecuteChildWorkflow(ctx, "operated", order{Reason: "plain child input"}).Get(ctx, nil)
		}, workflow.RegisterOptions{Name: "intrude by child"})
	})
	tests := map[string]struct {
		queue, workflow string
		args            []any
	}{
		"a workflow's input":                 {"guarded", "operated", []any{order{Reason: "plain"}}},
		"a workflow's input that is nothing": {"guarded", "operated", []any{nil}},
		"a workflow's input in raw bytes":    {"guarded", "operated", []any{[]byte("{}")}},
		"an activity's input":                {"intruder", "intrude by activity", nil},
		"a child's input":                    {"intruder", "intrude by child", nil},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			run, err := plain.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: test.queue}, test.workflow, test.args...)
			must(t, err)
			err = c.GetWorkflow(ctx, run.GetID(), run.GetRunID()).Get(ctx, nil)
			var refused *temporal.ApplicationError
			if !errors.As(err, &refused) || !refused.NonRetryable() || activities.KindOf(err) != activities.Invalid {
				t.Errorf("got %v, want a final error of kind %s", err, activities.Invalid)
			}
			if test.queue == "guarded" && err != nil && !strings.Contains(err.Error(), codec.ErrPlain.Error()) {
				t.Errorf("got %q, want the reason named", err)
			}
		})
	}
	if len(ran) > 0 {
		t.Errorf("the activity ran with %q", <-ran)
	}
}

func TestStartedWithSignalByAnOperator(t *testing.T) {
	ring, _ := newRing(t)
	c, _ := dial(t, newCodec(t, ring, server().GetDefaultNamespace()))
	plain, _ := dial(t, nil)
	work(t, c, "signal with start", registerOperated)
	// Without an input there is nothing to refuse: the workflow begins with its zero value.
	run, err := plain.SignalWithStartWorkflow(t.Context(), "by an operator", "order", order{Reason: "end"}, client.StartWorkflowOptions{TaskQueue: "signal with start"}, "operated")
	must(t, err)
	var got []order
	must(t, c.GetWorkflow(t.Context(), run.GetID(), "").Get(t.Context(), &got))
	if want := fmt.Sprint([]order{{}, {Reason: "end"}}); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	run, err = plain.SignalWithStartWorkflow(t.Context(), "by an operator, with input", "order", order{Reason: "end"}, client.StartWorkflowOptions{TaskQueue: "signal with start"}, "operated", order{})
	must(t, err)
	if err := c.GetWorkflow(t.Context(), run.GetID(), "").Get(t.Context(), nil); activities.KindOf(err) != activities.Invalid {
		t.Errorf("got %v, want it refused", err)
	}
}

func TestEarlierKeysStayReadable(t *testing.T) {
	ring, path := newRing(t)
	namespace := server().GetDefaultNamespace()
	before, _ := dial(t, newCodec(t, ring, namespace))
	stop := work(t, before, "rotated", registerOperated)
	run := start(t, before, "rotated")
	must(t, update(t, before, run, "pause", order{Reason: "earlier update"}))
	must(t, before.SignalWorkflow(t.Context(), run.GetID(), "", "order", order{Reason: "earlier signal"}))
	stop()
	_, err := keyring.Rotate(path)
	must(t, err)
	after, _ := dial(t, newCodec(t, loadRing(t, path), namespace))
	work(t, after, "rotated", registerOperated)
	must(t, after.SignalWorkflow(t.Context(), run.GetID(), "", "order", order{Reason: "end"}))
	var got []order
	must(t, after.GetWorkflow(t.Context(), run.GetID(), "").Get(t.Context(), &got))
	if want := fmt.Sprint([]order{{Reason: "started"}, {Reason: "earlier update"}, {Reason: "earlier signal"}, {Reason: "end"}}); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
	// A client that still has the earlier ring cannot read what the current key sealed, and says why.
	if err := run.Get(t.Context(), &got); !errors.Is(err, keyring.ErrUnknownKey) {
		t.Errorf("got %v, want %v", err, keyring.ErrUnknownKey)
	}
}

func TestAMissingKeyBlocksInsteadOfFailing(t *testing.T) {
	ring, path := newRing(t)
	namespace := server().GetDefaultNamespace()
	_, err := keyring.Rotate(path)
	must(t, err)
	current, _ := dial(t, newCodec(t, loadRing(t, path), namespace))
	behind, _ := dial(t, newCodec(t, ring, namespace))
	stop := work(t, behind, "behind", registerOperated)
	run := start(t, current, "behind")
	must(t, current.SignalWorkflow(t.Context(), run.GetID(), "", "order", order{Reason: "kept"}))
	failedTask(t, current, run)
	stop()
	work(t, current, "behind", registerOperated)
	must(t, current.SignalWorkflow(t.Context(), run.GetID(), "", "order", order{Reason: "end"}))
	var got []order
	must(t, run.Get(t.Context(), &got))
	if want := fmt.Sprint([]order{{Reason: "started"}, {Reason: "kept"}, {Reason: "end"}}); fmt.Sprint(got) != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// failedTask waits until a workflow task of the run has failed.
func failedTask(t *testing.T, c client.Client, run client.WorkflowRun) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	events := c.GetWorkflowHistory(ctx, run.GetID(), run.GetRunID(), true, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		must(t, err)
		switch event.GetEventType() {
		case enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED:
			return
		case enumspb.EVENT_TYPE_WORKFLOW_EXECUTION_FAILED:
			t.Fatal("the workflow failed, want its task to fail")
		}
	}
	t.Fatal("no workflow task failed")
}

func TestPayloadsOpenOnlyWhereTheyBelong(t *testing.T) {
	ring, _ := newRing(t)
	foreign, _ := newRing(t)
	here := newCodec(t, ring, "here")
	payload, err := codec.NewDataConverter(here).ToPayload("value")
	must(t, err)
	change := func(edit func(*commonpb.Payload)) *commonpb.Payload {
		altered := &commonpb.Payload{Metadata: map[string][]byte{}, Data: append([]byte{}, payload.GetData()...)}
		for k, v := range payload.GetMetadata() {
			altered.Metadata[k] = v
		}
		edit(altered)
		return altered
	}
	tests := map[string]struct {
		codec   *codec.Codec
		payload *commonpb.Payload
		want    error
	}{
		"as it was":                   {here, payload, nil},
		"in another namespace":        {newCodec(t, ring, "there"), payload, codec.ErrNamespace},
		"with the namespace replaced": {newCodec(t, ring, "there"), change(func(p *commonpb.Payload) { p.Metadata["castellan-namespace"] = []byte("there") }), keyring.ErrNotAuthentic},
		"without a namespace":         {here, change(func(p *commonpb.Payload) { delete(p.Metadata, "castellan-namespace") }), codec.ErrNamespace},
		"altered":                     {here, change(func(p *commonpb.Payload) { p.Data[20] ^= 1 }), keyring.ErrNotAuthentic},
		"empty":                       {here, change(func(p *commonpb.Payload) { p.Data = nil }), keyring.ErrNotAuthentic},
		"under another ring":          {newCodec(t, foreign, "here"), payload, keyring.ErrUnknownKey},
		"plain":                       {here, &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"value"`)}, codec.ErrPlain},
		"without an encoding":         {here, change(func(p *commonpb.Payload) { delete(p.Metadata, "encoding") }), codec.ErrPlain},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var got string
			err := codec.NewDataConverter(test.codec).FromPayload(test.payload, &got)
			if !errors.Is(err, test.want) || (test.want == nil) != (got == "value") {
				t.Errorf("got %q, %v, want %v", got, err, test.want)
			}
		})
	}
	if again, _ := codec.NewDataConverter(here).ToPayload("value"); string(again.GetData()) == string(payload.GetData()) {
		t.Error("the same value twice gives the same bytes")
	}
	if encoding := string(payload.GetMetadata()["encoding"]); encoding != "binary/encrypted" || len(payload.GetMetadata()["encryption-key-id"]) == 0 {
		t.Errorf("got encoding %q and metadata %v", encoding, payload.GetMetadata())
	}
}

func TestACodecWithoutAKeyFails(t *testing.T) {
	if _, err := codec.New(nil, "here"); err == nil {
		t.Error("no keyring: want an error")
	}
	ring, _ := newRing(t)
	if _, err := codec.New(ring, ""); err == nil {
		t.Error("no namespace: want an error")
	}
	keyless := new(codec.Codec)
	if payload, err := codec.NewDataConverter(keyless).ToPayload("value"); err == nil {
		t.Errorf("got a payload of %d bytes, want an error", len(payload.GetData()))
	}
	c, seen := dial(t, keyless)
	if _, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: "nobody"}, "operated", order{Reason: "canary-91c2"}); err == nil {
		t.Error("start without a key: want an error")
	}
	if wire, _ := seen.contents(); strings.Contains(string(wire), "canary-91c2") {
		t.Error("the input crossed the wire in clear")
	}
}

func TestMemosAreRefused(t *testing.T) {
	ring, _ := newRing(t)
	payloadCodec := newCodec(t, ring, server().GetDefaultNamespace())
	memo := map[string]any{"note": "canary-4b1d"}
	attempts := func(c client.Client, id string) map[string]error {
		options := client.StartWorkflowOptions{ID: id, TaskQueue: "nobody", Memo: memo}
		_, started := c.ExecuteWorkflow(t.Context(), options, "operated")
		options.ID = ""
		_, signalled := c.SignalWithStartWorkflow(t.Context(), id+" by signal", "order", nil, options, "operated")
		action := &client.ScheduleWorkflowAction{ID: id, Workflow: "operated", TaskQueue: "nobody"}
		_, scheduled := c.ScheduleClient().Create(t.Context(), client.ScheduleOptions{ID: id, Paused: true, Memo: memo, Action: action})
		action.Memo = memo
		_, acting := c.ScheduleClient().Create(t.Context(), client.ScheduleOptions{ID: id + " action", Paused: true, Action: action})
		return map[string]error{"start": started, "signal with start": signalled, "schedule": scheduled, "schedule action": acting}
	}
	c, seen := dial(t, payloadCodec)
	for act, err := range attempts(c, "with memo") {
		if err == nil || !strings.Contains(err.Error(), "memo") {
			t.Errorf("%s: got %v, want the memo refused", act, err)
		}
	}
	if wire, _ := seen.contents(); strings.Contains(string(wire), "canary-4b1d") {
		t.Error("a memo crossed the wire")
	}
	// The negative control: without the refusal the SDK writes a memo in clear when its converter fails.
	allowed, err := client.Dial(client.Options{HostPort: server().GetFrontendHostPort(), Namespace: server().GetDefaultNamespace(),
		DataConverter: codec.NewDataConverter(new(codec.Codec))})
	must(t, err)
	defer allowed.Close()
	for act, err := range attempts(allowed, "with allowed memo") {
		if act == "signal with start" {
			continue // its nil argument needs the key
		}
		if err != nil {
			t.Errorf("%s without the interceptor: %v", act, err)
		}
	}
	described, err := allowed.DescribeWorkflowExecution(t.Context(), "with allowed memo", "")
	must(t, err)
	if stored := string(described.GetWorkflowExecutionInfo().GetMemo().GetFields()["note"].GetData()); stored != `"canary-4b1d"` {
		t.Errorf("got memo %q: if the SDK no longer stores memos in clear, the refusal may go", stored)
	}
}

func TestWorkflowTestEnvironmentKeepsThePolicy(t *testing.T) {
	ring, _ := newRing(t)
	payloadCodec := newCodec(t, ring, "default-test-namespace")
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(&capture{})
	env := suite.NewTestWorkflowEnvironment()
	env.SetDataConverter(codec.NewDataConverter(payloadCodec))
	env.SetFailureConverter(codec.NewFailureConverter(payloadCodec))
	env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{codec.NewInterceptor(payloadCodec)}})
	env.RegisterWorkflowWithOptions(operated, workflow.RegisterOptions{Name: "operated"})
	env.RegisterDelayedCallback(func() {
		payload, err := converter.GetDefaultDataConverter().ToPayloads(order{Reason: "plain"})
		must(t, err)
		env.SignalWorkflow("order", converter.NewRawValue(payload.GetPayloads()[0]))
		env.UpdateWorkflowNoRejection("pause", "1", t, order{Reason: "update"})
		answer, err := env.QueryWorkflow("state", order{}, nil)
		must(t, err)
		var got []order
		if must(t, answer.Get(&got)); len(got) < 2 {
			t.Errorf("got %v from the query", got)
		}
		env.SignalWorkflow("order", order{Reason: "end"})
	}, time.Second)
	env.ExecuteWorkflow("operated", order{Reason: "started"})
	must(t, env.GetWorkflowError())
	var got []order
	if must(t, env.GetWorkflowResult(&got)); len(got) != 4 {
		t.Errorf("got %v, want four orders", got)
	}
}
