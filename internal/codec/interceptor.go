package codec

import (
	"context"
	"errors"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/workflow"
)

// NewInterceptor returns the interceptor that lets plain arguments of signals, queries and updates
// through, and no memo.
func NewInterceptor(c *Codec) interceptor.Interceptor { return &root{codec: c} }

type root struct {
	interceptor.InterceptorBase
	codec *Codec
}

// checkMemo refuses a memo.
func checkMemo(memo map[string]any) error {
	if len(memo) > 0 {
		return errors.New("memo: refused, because it is stored in clear")
	}
	return nil
}

// InterceptWorkflow wraps one run of a workflow.
func (r *root) InterceptWorkflow(_ workflow.Context, next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	return &inbound{WorkflowInboundInterceptorBase: interceptor.WorkflowInboundInterceptorBase{Next: next}, codec: r.codec}
}

// InterceptClient wraps a client.
func (r *root) InterceptClient(next interceptor.ClientOutboundInterceptor) interceptor.ClientOutboundInterceptor {
	return &clientOutbound{interceptor.ClientOutboundInterceptorBase{Next: next}}
}

type inbound struct {
	interceptor.WorkflowInboundInterceptorBase
	codec *Codec
}

// Init wraps the calls that the workflow makes.
func (i *inbound) Init(next interceptor.WorkflowOutboundInterceptor) error {
	return i.Next.Init(&outbound{WorkflowOutboundInterceptorBase: interceptor.WorkflowOutboundInterceptorBase{Next: next}, codec: i.codec})
}

// HandleSignal seals a plain argument, so that the workflow receives it like any other. Its type is not
// known here, and the converter that will decode it accepts nothing plain.
func (i *inbound) HandleSignal(ctx workflow.Context, in *interceptor.HandleSignalInput) error {
	sealedArgs := &commonpb.Payloads{}
	for _, payload := range in.Arg.GetPayloads() {
		if operator(payload) {
			var err error
			if payload, err = i.codec.seal(payload); err != nil {
				return err
			}
		}
		sealedArgs.Payloads = append(sealedArgs.Payloads, payload)
	}
	if in.Arg == nil {
		sealedArgs = nil
	}
	return i.Next.HandleSignal(ctx, &interceptor.HandleSignalInput{SignalName: in.SignalName, Arg: sealedArgs})
}

type outbound struct {
	interceptor.WorkflowOutboundInterceptorBase
	codec *Codec
}

// SetQueryHandler registers a handler whose arguments may be plain.
func (o *outbound) SetQueryHandler(ctx workflow.Context, name string, handler any) error {
	return o.Next.SetQueryHandler(ctx, name, o.codec.openArguments(handler, tellMissingKey))
}

// SetQueryHandlerWithOptions registers a handler whose arguments may be plain.
func (o *outbound) SetQueryHandlerWithOptions(ctx workflow.Context, name string, handler any, options workflow.QueryHandlerOptions) error {
	return o.Next.SetQueryHandlerWithOptions(ctx, name, o.codec.openArguments(handler, tellMissingKey), options)
}

// SetUpdateHandler registers a handler whose arguments may be plain. Arguments that cannot be opened
// or decoded reject the update, as they do without the codec.
func (o *outbound) SetUpdateHandler(ctx workflow.Context, name string, handler any, options workflow.UpdateHandlerOptions) error {
	if options.Validator == nil {
		options.Validator = acceptAll(handler)
	}
	options.Validator = o.codec.openArguments(options.Validator, tellMissingKey)
	return o.Next.SetUpdateHandler(ctx, name, o.codec.openArguments(handler, blockOnMissingKey), options)
}

// ExecuteChildWorkflow refuses memos.
func (o *outbound) ExecuteChildWorkflow(ctx workflow.Context, name string, args ...any) workflow.ChildWorkflowFuture {
	if err := checkMemo(workflow.GetChildWorkflowOptions(ctx).Memo); err != nil {
		panic(err) // a mistake in workflow code: no input and no fault leads here
	}
	return o.Next.ExecuteChildWorkflow(ctx, name, args...)
}

// UpsertMemo refuses memos.
func (o *outbound) UpsertMemo(ctx workflow.Context, memo map[string]any) error {
	if err := checkMemo(memo); err != nil {
		return err
	}
	return o.Next.UpsertMemo(ctx, memo)
}

type clientOutbound struct {
	interceptor.ClientOutboundInterceptorBase
}

// ExecuteWorkflow refuses memos.
func (c *clientOutbound) ExecuteWorkflow(ctx context.Context, in *interceptor.ClientExecuteWorkflowInput) (client.WorkflowRun, error) {
	if err := checkMemo(in.Options.Memo); err != nil {
		return nil, err
	}
	return c.Next.ExecuteWorkflow(ctx, in)
}

// SignalWithStartWorkflow refuses memos.
func (c *clientOutbound) SignalWithStartWorkflow(ctx context.Context, in *interceptor.ClientSignalWithStartWorkflowInput) (client.WorkflowRun, error) {
	if err := checkMemo(in.Options.Memo); err != nil {
		return nil, err
	}
	return c.Next.SignalWithStartWorkflow(ctx, in)
}

// CreateSchedule refuses memos on the schedule and on what it starts.
func (c *clientOutbound) CreateSchedule(ctx context.Context, in *interceptor.ScheduleClientCreateInput) (client.ScheduleHandle, error) {
	if err := checkMemo(in.Options.Memo); err != nil {
		return nil, err
	}
	if action, ok := in.Options.Action.(*client.ScheduleWorkflowAction); ok {
		if err := checkMemo(action.Memo); err != nil {
			return nil, err
		}
	}
	return c.Next.CreateSchedule(ctx, in)
}
