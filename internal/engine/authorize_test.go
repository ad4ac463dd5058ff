package engine

import (
	"testing"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/server/common/api"
	"go.temporal.io/server/common/authorization"

	"castellan.dev/internal/identity"
)

func queue(name string) *taskqueuepb.TaskQueue { return &taskqueuepb.TaskQueue{Name: name} }

func sticky(name, normal string) *taskqueuepb.TaskQueue {
	return &taskqueuepb.TaskQueue{Name: name, NormalName: normal, Kind: enumspb.TASK_QUEUE_KIND_STICKY}
}

func TestIdentitiesMayDoTheirPartOnly(t *testing.T) {
	const here = "castellan"
	everyone := []string{identity.Engine, identity.Dev, identity.Serve, identity.Operator, identity.UI,
		"control", "privileged", "privileged/web1", "observe", "record", "stranger", "controls"}
	operators := []string{identity.Engine, identity.Dev, identity.Serve, identity.Operator}
	workers := []string{identity.Engine, identity.Dev, identity.Serve, "control", "privileged", "privileged/web1", "observe", "record"}
	masters := []string{identity.Engine, identity.Dev}
	and := func(names []string, more ...string) []string { return append(append([]string(nil), names...), more...) }

	tests := map[string]struct {
		service string // empty means the workflow service
		method  string
		request any
		allowed []string
	}{
		"anyone asks what the server is":           {"", "GetSystemInfo", &workflowservice.GetSystemInfoRequest{}, everyone},
		"control polls workflows of its queue":     {"", "PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: here, TaskQueue: queue("castellan.control")}, and(masters, "control")},
		"control polls its sticky queue":           {"", "PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: here, TaskQueue: sticky("host:1234", "castellan.control")}, and(masters, "control")},
		"a sticky poll cannot hide another queue":  {"", "PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: here, TaskQueue: sticky("castellan.privileged", "castellan.control")}, masters},
		"a sticky poll for another queue":          {"", "PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: here, TaskQueue: sticky("host:1234", "castellan.privileged")}, masters},
		"nobody else polls workflows elsewhere":    {"", "PollWorkflowTaskQueue", &workflowservice.PollWorkflowTaskQueueRequest{Namespace: here, TaskQueue: queue("castellan.observe")}, masters},
		"observe polls its activities":             {"", "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: here, TaskQueue: queue("castellan.observe")}, and(masters, "observe")},
		"privileged polls its activities":          {"", "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: here, TaskQueue: queue("castellan.privileged")}, and(masters, "privileged")},
		"a host's worker polls its host's queue":   {"", "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: here, TaskQueue: queue("castellan.privileged/web1")}, and(masters, "privileged/web1")},
		"nobody polls another host's queue":        {"", "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: here, TaskQueue: queue("castellan.privileged/web2")}, masters},
		"record is served by serve or its worker":  {"", "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: here, TaskQueue: queue("castellan.record")}, and(masters, identity.Serve, "record")},
		"nobody polls in another namespace":        {"", "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{Namespace: "other", TaskQueue: queue("castellan.observe")}, masters},
		"nobody polls without a namespace":         {"", "PollActivityTaskQueue", &workflowservice.PollActivityTaskQueueRequest{TaskQueue: queue("castellan.observe")}, masters},
		"workers complete activities":              {"", "RespondActivityTaskCompleted", &workflowservice.RespondActivityTaskCompletedRequest{Namespace: here}, workers},
		"nobody completes activities by name":      {"", "RespondActivityTaskCompletedById", &workflowservice.RespondActivityTaskCompletedByIdRequest{Namespace: here}, masters},
		"control completes workflow tasks":         {"", "RespondWorkflowTaskCompleted", &workflowservice.RespondWorkflowTaskCompletedRequest{Namespace: here}, and(masters, "control")},
		"operators start workflows":                {"", "StartWorkflowExecution", &workflowservice.StartWorkflowExecutionRequest{Namespace: here, TaskQueue: queue("castellan.control")}, operators},
		"nobody starts on another zone's queue":    {"", "StartWorkflowExecution", &workflowservice.StartWorkflowExecutionRequest{Namespace: here, TaskQueue: queue("castellan.privileged")}, masters},
		"nobody starts in another namespace":       {"", "StartWorkflowExecution", &workflowservice.StartWorkflowExecutionRequest{Namespace: "other", TaskQueue: queue("castellan.control")}, masters},
		"operators signal with start":              {"", "SignalWithStartWorkflowExecution", &workflowservice.SignalWithStartWorkflowExecutionRequest{Namespace: here, TaskQueue: queue("castellan.control")}, operators},
		"nobody signals with start elsewhere":      {"", "SignalWithStartWorkflowExecution", &workflowservice.SignalWithStartWorkflowExecutionRequest{Namespace: here, TaskQueue: queue("castellan.observe")}, masters},
		"operators update with start":              {"", "ExecuteMultiOperation", multi("castellan.control"), operators},
		"nobody updates with start elsewhere":      {"", "ExecuteMultiOperation", multi("castellan.privileged"), masters},
		"operators signal":                         {"", "SignalWorkflowExecution", &workflowservice.SignalWorkflowExecutionRequest{Namespace: here}, operators},
		"operators update":                         {"", "UpdateWorkflowExecution", &workflowservice.UpdateWorkflowExecutionRequest{Namespace: here}, operators},
		"operators terminate":                      {"", "TerminateWorkflowExecution", &workflowservice.TerminateWorkflowExecutionRequest{Namespace: here}, operators},
		"operators reset":                          {"", "ResetWorkflowExecution", &workflowservice.ResetWorkflowExecutionRequest{Namespace: here}, operators},
		"nobody deletes history":                   {"", "DeleteWorkflowExecution", &workflowservice.DeleteWorkflowExecutionRequest{Namespace: here}, masters},
		"nobody starts a batch":                    {"", "StartBatchOperation", &workflowservice.StartBatchOperationRequest{Namespace: here}, masters},
		"nobody starts an activity past workflows": {"", "StartActivityExecution", &workflowservice.StartActivityExecutionRequest{Namespace: here, TaskQueue: queue("castellan.privileged")}, masters},
		"readers query":                            {"", "QueryWorkflow", &workflowservice.QueryWorkflowRequest{Namespace: here}, and(operators, identity.UI, "record")},
		"readers list":                             {"", "ListWorkflowExecutions", &workflowservice.ListWorkflowExecutionsRequest{Namespace: here}, and(operators, identity.UI, "record")},
		"control reads the history it replays":     {"", "GetWorkflowExecutionHistory", &workflowservice.GetWorkflowExecutionHistoryRequest{Namespace: here}, and(operators, identity.UI, "record", "control")},
		"nobody reads the server's own namespace":  {"", "ListWorkflowExecutions", &workflowservice.ListWorkflowExecutionsRequest{Namespace: "temporal-system"}, masters},
		"people see which namespaces exist":        {"", "ListNamespaces", &workflowservice.ListNamespacesRequest{}, and(masters, identity.Operator, identity.UI)},
		"nobody makes a namespace":                 {"", "RegisterNamespace", &workflowservice.RegisterNamespaceRequest{Namespace: here}, masters},
		"nobody changes the namespace":             {"", "UpdateNamespace", &workflowservice.UpdateNamespaceRequest{Namespace: here}, masters},
		"serve declares schedules":                 {"", "CreateSchedule", &workflowservice.CreateScheduleRequest{Namespace: here, Schedule: scheduleOn("castellan.control")}, and(masters, identity.Serve)},
		"no schedule starts elsewhere":             {"", "CreateSchedule", &workflowservice.CreateScheduleRequest{Namespace: here, Schedule: scheduleOn("castellan.privileged")}, masters},
		"operators pause and trigger schedules":    {"", "PatchSchedule", &workflowservice.PatchScheduleRequest{Namespace: here}, operators},
		"readers see search attributes":            {api.OperatorServicePrefix, "ListSearchAttributes", &operatorservice.ListSearchAttributesRequest{Namespace: here}, and(operators, identity.UI, "record")},
		"nobody adds search attributes":            {api.OperatorServicePrefix, "AddSearchAttributes", &operatorservice.AddSearchAttributesRequest{Namespace: here}, masters},
		"nobody calls the admin service":           {api.AdminServicePrefix, "DescribeCluster", nil, masters},
		"nobody calls what is not known":           {"/temporal.api.future.v1.Service/", "Anything", nil, masters},
	}
	g := guard{namespace: here}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			service := test.service
			if service == "" {
				service = api.WorkflowServicePrefix
			}
			target := &authorization.CallTarget{APIName: service + test.method, Request: test.request}
			if request, ok := test.request.(interface{ GetNamespace() string }); ok {
				target.Namespace = request.GetNamespace()
			}
			allowed := map[string]bool{}
			for _, name := range test.allowed {
				allowed[name] = true
			}
			for _, name := range everyone {
				claims := &authorization.Claims{Subject: name, AuthType: principalType}
				result, err := g.Authorize(t.Context(), claims, target)
				if err != nil {
					t.Fatal(err)
				}
				if got, want := result.Decision == authorization.DecisionAllow, allowed[name]; got != want {
					t.Errorf("identity %q: allowed %v, want %v", name, got, want)
				}
				if result.Decision == authorization.DecisionAllow && result.Principal.GetName() != name {
					t.Errorf("identity %q: stamped as %q", name, result.Principal.GetName())
				}
			}
		})
	}
}

func TestCallersWithoutAnIdentityMayNothing(t *testing.T) {
	target := &authorization.CallTarget{APIName: api.WorkflowServicePrefix + "GetSystemInfo", Request: &workflowservice.GetSystemInfoRequest{}}
	for name, claims := range map[string]*authorization.Claims{
		"no claims":                          nil,
		"claims of another kind":             {Subject: identity.Dev, AuthType: "jwt"},
		"an administrator by role, unproven": {System: authorization.RoleAdmin},
	} {
		result, err := guard{namespace: "castellan"}.Authorize(t.Context(), claims, target)
		if err != nil || result.Decision != authorization.DecisionDeny {
			t.Errorf("%s: got decision %v, error %v; want a refusal", name, result.Decision, err)
		}
	}
	if _, err := (guard{}).GetClaims(&authorization.AuthInfo{AuthToken: "Bearer x"}); err == nil {
		t.Error("a token without a certificate was mapped to claims")
	}
}

func multi(name string) *workflowservice.ExecuteMultiOperationRequest {
	return &workflowservice.ExecuteMultiOperationRequest{Namespace: "castellan", Operations: []*workflowservice.ExecuteMultiOperationRequest_Operation{
		{Operation: &workflowservice.ExecuteMultiOperationRequest_Operation_StartWorkflow{
			StartWorkflow: &workflowservice.StartWorkflowExecutionRequest{Namespace: "castellan", TaskQueue: queue(name)},
		}},
	}}
}

func scheduleOn(name string) *schedulepb.Schedule {
	return &schedulepb.Schedule{Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{
		StartWorkflow: &workflowpb.NewWorkflowExecutionInfo{TaskQueue: queue(name)},
	}}}
}
