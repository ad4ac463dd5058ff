package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/server/common/api"
	"go.temporal.io/server/common/authorization"

	"castellan.dev/activities"
	"castellan.dev/internal/identity"
)

// principalType marks, in claims and in history events, a caller known by castellan's certificate.
const principalType = "castellan"

// guard maps a client certificate to its identity and decides what that identity may ask for. It is
// the queue access control that a stock server lacks: there, whoever may poll one queue may poll all.
//
// What it cannot do: a task token is not signed, so a zone that was taken over and knows the
// numbers of another zone's running activity could report that activity's result.
type guard struct{ namespace string }

// AuthInfoRequired implements authorization.ClaimMapperWithAuthInfoRequired: also a call without a
// certificate is mapped, and refused, here.
func (guard) AuthInfoRequired() bool { return false }

// GetClaims implements authorization.ClaimMapper.
func (guard) GetClaims(info *authorization.AuthInfo) (*authorization.Claims, error) {
	if info.TLSConnection == nil {
		return nil, errors.New("map claims: the connection has no TLS")
	}
	name, err := identity.Peer(&info.TLSConnection.State)
	if err != nil {
		return nil, fmt.Errorf("map claims: %w", err)
	}
	return &authorization.Claims{Subject: name, AuthType: principalType}, nil
}

// Authorize implements authorization.Authorizer.
func (g guard) Authorize(_ context.Context, claims *authorization.Claims, target *authorization.CallTarget) (authorization.Result, error) {
	refused := authorization.Result{Decision: authorization.DecisionDeny}
	if claims == nil {
		return refused, nil
	}
	if claims.AuthType == authorization.InternalPrincipalType {
		// The internal frontend's callers are the server's own services: only they hold the
		// internode key.
		return authorization.Result{Decision: authorization.DecisionAllow, Principal: &commonpb.Principal{
			Type: authorization.InternalPrincipalType, Name: authorization.InternalPrincipalName,
		}}, nil
	}
	if claims.AuthType != principalType || !g.allows(claims.Subject, target) {
		refused.Reason = fmt.Sprintf("identity %q may not %s", claims.Subject, api.MethodName(target.APIName))
		return refused, nil
	}
	return authorization.Result{
		Decision:  authorization.DecisionAllow,
		Principal: &commonpb.Principal{Type: principalType, Name: claims.Subject},
	}, nil
}

func (g guard) allows(name string, target *authorization.CallTarget) bool {
	if name == identity.Engine || name == identity.Dev {
		return true
	}
	if greets(target) {
		return true
	}
	if target.Namespace != g.namespace {
		return target.Namespace == "" && readsCluster(name, target)
	}
	switch name {
	case identity.UI:
		return reads(target)
	case identity.Operator:
		return reads(target) || operates(target)
	case identity.Serve:
		return reads(target) || operates(target) || schedules(target) || works(string(activities.Record), target)
	case string(activities.Control):
		return works(name, target) || decides(name, target)
	case string(activities.Record):
		return works(name, target) || reads(target)
	}
	if zone, _, _ := strings.Cut(name, "/"); isZone(zone) {
		return works(name, target)
	}
	return false
}

func isZone(name string) bool {
	for _, zone := range activities.Zones() {
		if name == string(zone) {
			return true
		}
	}
	return false
}

// greets covers what every client asks first.
func greets(target *authorization.CallTarget) bool {
	if authorization.IsHealthCheckAPI(target.APIName) {
		return true
	}
	switch target.Request.(type) {
	case *workflowservice.GetSystemInfoRequest, *workflowservice.GetClusterInfoRequest:
		return true
	}
	return false
}

// reads covers every call that changes nothing in the namespace.
func reads(target *authorization.CallTarget) bool {
	metadata := api.GetMethodMetadata(target.APIName)
	return metadata.Scope == api.ScopeNamespace && metadata.Access == api.AccessReadOnly
}

// readsCluster covers the few calls that name no namespace and change nothing, for those who look.
func readsCluster(name string, target *authorization.CallTarget) bool {
	metadata := api.GetMethodMetadata(target.APIName)
	return (name == identity.UI || name == identity.Operator) &&
		metadata.Scope == api.ScopeCluster && metadata.Access == api.AccessReadOnly
}

// works covers a worker that serves the activities of its own queue.
func works(name string, target *authorization.CallTarget) bool {
	switch request := target.Request.(type) {
	case *workflowservice.PollActivityTaskQueueRequest:
		return owns(name, request.GetTaskQueue())
	case *workflowservice.DescribeNamespaceRequest,
		*workflowservice.RecordActivityTaskHeartbeatRequest,
		*workflowservice.RespondActivityTaskCompletedRequest,
		*workflowservice.RespondActivityTaskFailedRequest,
		*workflowservice.RespondActivityTaskCanceledRequest,
		*workflowservice.RecordWorkerHeartbeatRequest:
		return true
	case *workflowservice.ShutdownWorkerRequest:
		return request.GetTaskQueue() == "" || request.GetTaskQueue() == queueOf(name)
	}
	return false
}

// decides covers a worker that runs workflows.
func decides(name string, target *authorization.CallTarget) bool {
	switch request := target.Request.(type) {
	case *workflowservice.PollWorkflowTaskQueueRequest:
		return owns(name, request.GetTaskQueue())
	case *workflowservice.RespondWorkflowTaskCompletedRequest,
		*workflowservice.RespondWorkflowTaskFailedRequest,
		*workflowservice.RespondQueryTaskCompletedRequest,
		*workflowservice.ResetStickyTaskQueueRequest,
		*workflowservice.GetWorkflowExecutionHistoryRequest:
		return true
	}
	return false
}

// operates covers what a person does to workflows. New ones start only where workflows run: a start
// on another queue would be an attempt to reach a zone past the workflows.
func operates(target *authorization.CallTarget) bool {
	switch request := target.Request.(type) {
	case *workflowservice.StartWorkflowExecutionRequest:
		return startsHere(request.GetTaskQueue())
	case *workflowservice.SignalWithStartWorkflowExecutionRequest:
		return startsHere(request.GetTaskQueue())
	case *workflowservice.ExecuteMultiOperationRequest:
		for _, operation := range request.GetOperations() {
			if start := operation.GetStartWorkflow(); start != nil && !startsHere(start.GetTaskQueue()) {
				return false
			}
		}
		return true
	case *workflowservice.SignalWorkflowExecutionRequest,
		*workflowservice.UpdateWorkflowExecutionRequest,
		*workflowservice.RequestCancelWorkflowExecutionRequest,
		*workflowservice.TerminateWorkflowExecutionRequest,
		*workflowservice.ResetWorkflowExecutionRequest,
		*workflowservice.PatchScheduleRequest:
		return true
	}
	return false
}

// schedules covers the reconciliation of declared schedules.
func schedules(target *authorization.CallTarget) bool {
	switch request := target.Request.(type) {
	case *workflowservice.CreateScheduleRequest:
		return startsHere(request.GetSchedule().GetAction().GetStartWorkflow().GetTaskQueue())
	case *workflowservice.UpdateScheduleRequest:
		return startsHere(request.GetSchedule().GetAction().GetStartWorkflow().GetTaskQueue())
	case *workflowservice.DeleteScheduleRequest:
		return true
	}
	return false
}

func startsHere(queue *taskqueuepb.TaskQueue) bool {
	return queue.GetName() == activities.Control.Queue("")
}

// owns reports whether the queue is name's own, or a sticky queue that stands for it.
func owns(name string, queue *taskqueuepb.TaskQueue) bool {
	if queue.GetKind() == enumspb.TASK_QUEUE_KIND_STICKY {
		return queue.GetNormalName() == queueOf(name) && !strings.HasPrefix(queue.GetName(), queuePrefix)
	}
	return queue.GetName() == queueOf(name)
}

const queuePrefix = "castellan."

// queueOf maps an identity to its queue: "privileged/web1" serves "castellan.privileged/web1".
func queueOf(name string) string {
	zone, host, _ := strings.Cut(name, "/")
	return activities.Zone(zone).Queue(host)
}
