package api

import (
	"errors"
	"net/http"
	"strings"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/temporal"

	"castellan.dev/activities"
	"castellan.dev/internal/servicedb"
	"castellan.dev/workflows/rotation"
)

func (s *Server) rotations(r *http.Request) (any, error) {
	page, err := pageOf(r)
	if err != nil {
		return nil, err
	}
	query := r.URL.Query()
	filter := servicedb.RotationFilter{Target: query.Get("target"), State: activities.State(query.Get("state")), Trigger: query.Get("trigger"), Open: query.Get("open") == "true"}
	if filter.Since, err = s.momentOf(r, "since"); err != nil {
		return nil, err
	}
	rows, next, err := s.Database.Rotations(r.Context(), filter, page)
	if err != nil {
		return nil, err
	}
	list := List[Rotation]{Items: []Rotation{}, Cursor: next}
	for _, row := range rows {
		list.Items = append(list.Items, rotationOf(row))
	}
	return list, nil
}

func (s *Server) rotation(r *http.Request) (any, error) {
	row, err := s.Database.Rotation(r.Context(), activities.RotationID(r.PathValue("id")))
	if err != nil {
		return nil, err
	}
	return rotationOf(row), nil
}

// live asks the workflow itself: what it does now, what it waits for, who is missing.
func (s *Server) live(r *http.Request) (any, error) {
	id, run := rotation.WorkflowID(r.PathValue("name")), r.URL.Query().Get("run")
	described, err := s.Temporal.DescribeWorkflowExecution(r.Context(), id, run)
	if err != nil {
		return nil, engineError("show rotation of "+r.PathValue("name"), err)
	}
	status := described.GetWorkflowExecutionInfo().GetStatus()
	live := Live{Status: statusName(status)}
	if value, err := s.Temporal.QueryWorkflow(r.Context(), id, run, rotation.QueryState); err == nil {
		if err := value.Get(&live.State); err != nil {
			return nil, engineError("read state of "+id, err)
		}
	} else if status == enums.WORKFLOW_EXECUTION_STATUS_RUNNING {
		live.Error = "no worker of the control zone answers: " + err.Error()
	}
	switch status {
	case enums.WORKFLOW_EXECUTION_STATUS_RUNNING:
	case enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, enums.WORKFLOW_EXECUTION_STATUS_FAILED:
		var result rotation.Result
		err := s.Temporal.GetWorkflow(r.Context(), id, described.GetWorkflowExecutionInfo().GetExecution().GetRunId()).Get(r.Context(), &result)
		if err != nil {
			live.Error = failureText(err)
			break
		}
		live.Result = &result
	}
	return live, nil
}

func failureText(err error) string {
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		return app.Message()
	}
	return err.Error()
}

// statusName spells a workflow status as people read it: "running", "timed out".
func statusName(status enums.WorkflowExecutionStatus) string {
	var out strings.Builder
	for i, letter := range status.String() {
		if i > 0 && letter >= 'A' && letter <= 'Z' {
			out.WriteByte(' ')
		}
		out.WriteRune(letter)
	}
	return strings.ToLower(out.String())
}

func alreadyStarted(err error) bool {
	var started *serviceerror.WorkflowExecutionAlreadyStarted
	return errors.As(err, &started)
}
