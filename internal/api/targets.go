package api

import (
	"context"
	"net/http"
	"slices"
	"strings"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"

	"castellan.dev/activities"
	"castellan.dev/internal/servicedb"
	"castellan.dev/workflows/rotation"
)

func (s *Server) certificates(r *http.Request) (any, error) {
	page, err := pageOf(r)
	if err != nil {
		return nil, err
	}
	query := r.URL.Query()
	filter := servicedb.TargetFilter{Owner: query.Get("owner"), Policy: query.Get("policy"), ExclusionGroup: query.Get("group"), State: activities.State(query.Get("state"))}
	if filter.ExpiresBefore, err = s.momentOf(r, "expires_before"); err != nil {
		return nil, err
	}
	if filter.DueBefore, err = s.momentOf(r, "due_before"); err != nil {
		return nil, err
	}
	rows, next, err := s.Database.Targets(r.Context(), filter, page)
	if err != nil {
		return nil, err
	}
	list := List[Certificate]{Items: []Certificate{}, Cursor: next}
	for _, row := range rows {
		list.Items = append(list.Items, certificateOf(row))
	}
	return list, nil
}

func (s *Server) certificate(r *http.Request) (any, error) {
	name := r.PathValue("name")
	row, err := s.Database.Target(r.Context(), name)
	if err != nil {
		return nil, err
	}
	consumers, err := s.Database.Consumers(r.Context(), name)
	if err != nil {
		return nil, err
	}
	shown := certificateOf(row)
	for _, c := range consumers {
		shown.Consumers = append(shown.Consumers, Consumer{
			Consumer: c.Consumer, Address: c.Address, Standing: c.Standing, Serves: c.Serves, Since: c.Since, SeenAt: c.SeenAt,
		})
	}
	return shown, nil
}

// rotate starts a rotation, or tells the one under way.
func (s *Server) rotate(r *http.Request) (any, error) {
	name := r.PathValue("name")
	host, declared := s.Host(name)
	if !declared {
		return nil, missing(name)
	}
	var request RotateRequest
	if err := decode(r, &request); err != nil {
		return nil, err
	}
	if request.Until != "" && request.Until != activities.Tested {
		return nil, activities.Errorf(activities.Invalid, "until is %q, want %s or nothing", request.Until, activities.Tested)
	}
	caller, err := Caller(r)
	if err != nil {
		return nil, err
	}
	return s.start(r.Context(), name, host, activities.Trigger{
		Source: "operator", Actor: caller, Reason: request.Reason, Now: !request.Scheduled, Anytime: !request.Scheduled,
		Compromise: request.Compromise, Until: request.Until,
	})
}

// start begins the rotation workflow of a target. One that is under way is told to rotate now.
func (s *Server) start(ctx context.Context, target, host string, trigger activities.Trigger) (Started, error) {
	id := rotation.WorkflowID(target)
	options := client.StartWorkflowOptions{
		ID: id, TaskQueue: activities.Control.Queue(""),
		WorkflowIDConflictPolicy:                 enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		TypedSearchAttributes:                    rotation.Attributes("certificate", target, trigger.Source),
		StaticSummary:                            "asked for by " + trigger.Actor,
	}
	run, err := s.Temporal.ExecuteWorkflow(ctx, options, rotation.Name, rotation.Input{Target: target, Host: host, Trigger: trigger})
	if err == nil {
		return Started{Workflow: id, Run: run.GetRunID()}, nil
	}
	if !alreadyStarted(err) {
		return Started{}, engineError("start rotation of "+target, err)
	}
	if trigger.Compromise || trigger.Until != "" {
		return Started{}, activities.Errorf(activities.Conflict, "a rotation of %q is under way; abort it first, or wait", target)
	}
	_, err = s.update(ctx, target, rotation.RotateNow, rotation.Request{Actor: trigger.Actor, Reason: trigger.Reason})
	if err != nil && activities.KindOf(err) != activities.Conflict {
		return Started{}, err
	}
	return Started{Workflow: id, Running: true}, nil
}

func (s *Server) message(r *http.Request) (any, error) {
	name, message := r.PathValue("name"), r.PathValue("message")
	if !slices.Contains(rotation.Messages(), message) {
		return nil, activities.Errorf(activities.Invalid, "message is %q, want one of %s", message, strings.Join(rotation.Messages(), ", "))
	}
	var request MessageRequest
	if err := decode(r, &request); err != nil {
		return nil, err
	}
	caller, err := Caller(r)
	if err != nil {
		return nil, err
	}
	return s.update(r.Context(), name, message, rotation.Request{Actor: caller, Reason: request.Reason})
}

func (s *Server) update(ctx context.Context, target, message string, request rotation.Request) (rotation.State, error) {
	handle, err := s.Temporal.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: rotation.WorkflowID(target), UpdateName: message, Args: []any{request},
		WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err != nil {
		return rotation.State{}, engineError(message+" "+target, err)
	}
	var state rotation.State
	return state, engineError(message+" "+target, handle.Get(ctx, &state))
}
