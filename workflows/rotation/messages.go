package rotation

import (
	"fmt"
	"strings"

	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"

	"castellan.dev/activities"
)

// listen registers the query, the updates with their validators, and the signals of the same names.
func (r *run) listen(ctx workflow.Context) error {
	if err := workflow.SetQueryHandler(ctx, QueryState, func() (State, error) { return r.state.clone(), nil }); err != nil {
		return err
	}
	for _, message := range Messages() {
		handle := func(ctx workflow.Context, request Request) (State, error) {
			r.apply(ctx, message, request)
			return r.state.clone(), nil
		}
		options := workflow.UpdateHandlerOptions{
			Description: meaning[message],
			Validator:   func(Request) error { return allow(message, r.state) },
		}
		if err := workflow.SetUpdateHandlerWithOptions(ctx, message, handle, options); err != nil {
			return err
		}
	}
	workflow.Go(ctx, r.receive)
	return nil
}

// meaning says what each message does, for the Web UI and the command line.
var meaning = map[string]string{
	Pause:      "stop before the next step; nothing that is visible changes until resume",
	Resume:     "go on after pause",
	Abort:      "end without the candidate: discard it, or put the previous back where it was published",
	RotateNow:  "rotate although it is not due, and outside its windows",
	SkipWindow: "do not wait for the maintenance window",
}

// drain takes the signals that have arrived and were not handled yet; they would be lost on
// continue-as-new.
func (r *run) drain(ctx workflow.Context) {
	for _, message := range Messages() {
		channel := workflow.GetSignalChannel(ctx, message)
		var raw converter.RawValue
		for channel.ReceiveAsync(&raw) {
			r.signalled(ctx, message, raw)
		}
	}
}

// receive takes signals. A signal cannot be refused, so one that makes no sense is ignored and noted.
func (r *run) receive(ctx workflow.Context) {
	selector := workflow.NewSelector(ctx)
	for _, message := range Messages() {
		channel := workflow.GetSignalChannelWithOptions(ctx, message, workflow.SignalChannelOptions{Description: meaning[message]})
		selector.AddReceive(channel, func(channel workflow.ReceiveChannel, _ bool) {
			var raw converter.RawValue
			channel.Receive(ctx, &raw)
			r.signalled(ctx, message, raw)
		})
	}
	for {
		selector.Select(ctx)
	}
}

// signalled handles one signal. Its argument is optional; text is taken as the reason.
func (r *run) signalled(ctx workflow.Context, message string, raw converter.RawValue) {
	var request Request
	if payload := raw.Payload(); len(payload.GetData()) > 0 && string(payload.GetData()) != "null" {
		plain := converter.GetDefaultDataConverter()
		var text string
		if err := plain.FromPayload(payload, &request); err != nil {
			if plain.FromPayload(payload, &text) != nil {
				r.ignore(ctx, fmt.Sprintf("signal %q: its argument is neither text nor {\"actor\", \"reason\"}", message))
				return
			}
			request = Request{Reason: text}
		}
	}
	if err := allow(message, r.state); err != nil {
		r.ignore(ctx, "signal: "+err.Error())
		return
	}
	r.apply(ctx, message, request)
}

func (r *run) ignore(ctx workflow.Context, why string) {
	r.state.Note = stamp(workflow.Now(ctx)) + " " + why
	r.show(ctx)
}

// apply changes the state as the message asks. The main line notices by itself.
func (r *run) apply(ctx workflow.Context, message string, request Request) {
	request.At = workflow.Now(ctx)
	switch message {
	case Pause:
		r.state.Paused = &request
	case Resume:
		r.state.Paused = nil
		r.nudged = true
	case Abort:
		r.state.Abort = &request
	case SkipWindow:
		r.state.Trigger.Anytime = true
		r.nudged = true
	case RotateNow:
		r.state.Trigger = activities.Trigger{
			Source: "operator", Actor: request.Actor, Reason: request.Reason, Now: true, Anytime: true,
			Compromise: r.state.Trigger.Compromise, Until: r.state.Trigger.Until,
		}
		r.nudged = true
	}
	r.show(ctx)
}

// targetOf takes the target from the workflow id when the input does not name it.
func targetOf(ctx workflow.Context, input Input) (string, error) {
	id := workflow.GetInfo(ctx).WorkflowExecution.ID
	fromID, ok := strings.CutPrefix(id, prefix)
	if !ok || fromID == "" {
		return "", fmt.Errorf("workflow id %q: expected %s<target>", id, prefix)
	}
	if input.Target != "" && input.Target != fromID {
		return "", fmt.Errorf("input names target %q but the workflow id is %q: the id is the lock, so both must agree", input.Target, id)
	}
	return fromID, nil
}
