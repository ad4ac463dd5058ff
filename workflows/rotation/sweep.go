package rotation

import (
	"time"

	enums "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"castellan.dev/activities"
)

// SweepInput names the schedule that fires the sweep.
type SweepInput struct {
	Schedule string `json:"schedule"`
}

// SweepResult counts what a sweep did.
type SweepResult struct {
	Due     int      `json:"due"`
	Started []string `json:"started,omitempty"`
	Running int      `json:"running,omitempty"` // due, but a rotation is under way already
}

// page is how many due targets a sweep reads at once; more are found by the cursor.
const page = 100

// Sweep starts a rotation for every target that is due. It reads by an index on the due date, so it
// costs what is due (two actions each), not what exists: four actions when nothing is. It does not wait for
// the rotations, and one that is under way already is left alone.
func Sweep(ctx workflow.Context, input SweepInput) (SweepResult, error) {
	var result SweepResult
	cursor := ""
	for {
		found, err := activities.Sweep.Run(ctx, "", "what is due?", activities.SweepRequest{Limit: page, Cursor: cursor})
		if err != nil {
			return result, err
		}
		result.Due += len(found.Due)
		var children []workflow.ChildWorkflowFuture
		for _, due := range found.Due {
			children = append(children, begin(ctx, due, input.Schedule))
		}
		for i, child := range children {
			err := child.GetChildWorkflowExecution().Get(ctx, nil)
			switch {
			case err == nil:
				result.Started = append(result.Started, found.Due[i].Target)
			case temporal.IsWorkflowExecutionAlreadyStartedError(err):
				result.Running++
			default:
				return result, err
			}
		}
		if cursor = found.Cursor; cursor == "" {
			break
		}
	}
	at := workflow.Now(ctx)
	_, err := activities.Succeeded.Run(ctx, "", "the sweep succeeded", activities.SuccessRequest{Schedule: input.Schedule, At: at})
	return result, err
}

// begin starts one target's rotation as an abandoned child: it outlives the sweep.
func begin(ctx workflow.Context, due activities.DueTarget, schedule string) workflow.ChildWorkflowFuture {
	ctx = workflow.WithChildOptions(ctx, workflow.ChildWorkflowOptions{
		WorkflowID:            WorkflowID(due.Target),
		TaskQueue:             activities.Control.Queue(""),
		ParentClosePolicy:     enums.PARENT_CLOSE_POLICY_ABANDON,
		WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		StaticSummary:         "due since " + due.DueAt.UTC().Format(time.RFC3339),
		TypedSearchAttributes: Attributes(due.Kind, due.Target, "schedule"),
	})
	trigger := activities.Trigger{Source: "schedule", Actor: schedule}
	return workflow.ExecuteChildWorkflow(ctx, Name, Input{Target: due.Target, Host: due.Host, Trigger: trigger})
}

// The search attributes of a rotation. They are in clear: names of targets are not sensitive by design.
var (
	kindAttribute    = temporal.NewSearchAttributeKeyKeyword("CastellanKind")
	targetAttribute  = temporal.NewSearchAttributeKeyKeyword("CastellanTarget")
	triggerAttribute = temporal.NewSearchAttributeKeyKeyword("CastellanTrigger")
)

// Attributes returns the search attributes that every start of a rotation sets.
func Attributes(kind, target, trigger string) temporal.SearchAttributes {
	return temporal.NewSearchAttributes(kindAttribute.ValueSet(kind), targetAttribute.ValueSet(target), triggerAttribute.ValueSet(trigger))
}

// Register serves both workflow types under their released names. Rotations are Pinned: one that began
// on a build ends on it.
func Register(registry worker.WorkflowRegistry) {
	registry.RegisterWorkflowWithOptions(Rotation, workflow.RegisterOptions{Name: Name, VersioningBehavior: workflow.VersioningBehaviorPinned})
	registry.RegisterWorkflowWithOptions(Sweep, workflow.RegisterOptions{Name: SweepName, VersioningBehavior: workflow.VersioningBehaviorPinned})
}
