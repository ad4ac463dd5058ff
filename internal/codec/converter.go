package codec

import (
	"context"
	"errors"

	"castellan.dev/activities"
	"castellan.dev/internal/keyring"
	commonpb "go.temporal.io/api/common/v1"
	failurepb "go.temporal.io/api/failure/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

// Install sets the data converter, the failure converter and the interceptor of a client. All three
// belong together: with the converters alone, plain arguments of signals, queries and updates would be
// refused too, and memos accepted.
func Install(options *client.Options, c *Codec) {
	options.DataConverter = NewDataConverter(c)
	options.FailureConverter = NewFailureConverter(c)
	options.Interceptors = append(options.Interceptors, NewInterceptor(c))
}

// NewDataConverter returns Temporal's default data converter behind the codec. A replayer of recorded
// histories needs it, NewFailureConverter and NewInterceptor too.
func NewDataConverter(c *Codec) converter.DataConverter {
	return &dataConverter{DataConverter: converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), c)}
}

// dataConverter adds two rules to the SDK's: arguments that the interceptor declared are taken as they
// are (it opens them itself), and a missing key in a workflow blocks its task.
type dataConverter struct {
	converter.DataConverter
	inWorkflow bool
}

var _ workflow.ContextAware = (*dataConverter)(nil)

// WithWorkflowContext returns the converter for code that runs in a workflow.
func (d *dataConverter) WithWorkflowContext(converter.WorkflowContext) converter.DataConverter {
	return &dataConverter{DataConverter: d.DataConverter, inWorkflow: true}
}

// WithContext returns the converter for all other code.
func (d *dataConverter) WithContext(context.Context) converter.DataConverter { return d }

// FromPayload opens and decodes one payload.
func (d *dataConverter) FromPayload(payload *commonpb.Payload, pointer any) error {
	if raw, ok := pointer.(*argument); ok {
		raw.payload = payload
		return nil
	}
	return d.blocking(d.DataConverter.FromPayload(payload, pointer))
}

// FromPayloads opens and decodes as many payloads as there are pointers.
func (d *dataConverter) FromPayloads(payloads *commonpb.Payloads, pointers ...any) error {
	for i, payload := range payloads.GetPayloads() {
		if i >= len(pointers) {
			break
		}
		if err := d.FromPayload(payload, pointers[i]); err != nil {
			return err
		}
	}
	return nil
}

// blocking panics when a key is missing in a workflow. An error would fail the workflow, or drop the
// signal, for good; a panic fails the workflow task, which the server repeats until the key is there.
func (d *dataConverter) blocking(err error) error {
	if d.inWorkflow && errors.Is(err, keyring.ErrUnknownKey) {
		panic(err)
	}
	return err
}

// NewFailureConverter returns Temporal's default failure converter with message and stack trace
// encrypted. A refused payload becomes an error that is final and of kind Invalid.
func NewFailureConverter(c *Codec) converter.FailureConverter {
	return failureConverter{temporal.NewDefaultFailureConverter(temporal.DefaultFailureConverterOptions{
		DataConverter:          NewDataConverter(c),
		EncodeCommonAttributes: true,
	})}
}

type failureConverter struct{ converter.FailureConverter }

// ErrorToFailure converts an error for the wire.
func (f failureConverter) ErrorToFailure(err error) *failurepb.Failure {
	var application *temporal.ApplicationError
	if refusal(err) && !errors.As(err, &application) {
		err = temporal.NewNonRetryableApplicationError(err.Error(), string(activities.Invalid), nil)
	}
	return f.FailureConverter.ErrorToFailure(err)
}
