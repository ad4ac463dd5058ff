package codec

import (
	"errors"
	"fmt"
	"reflect"

	"castellan.dev/internal/keyring"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/workflow"
)

// argument stands in for an argument of a query or update handler. The SDK decodes arguments before
// any interceptor sees them, so a handler is registered with arguments of this type, which the data
// converter fills with the payload as it came; the handler around it opens and decodes them. No other
// code can name the type, so no other argument is ever taken plain.
type argument struct{ payload *commonpb.Payload }

// UnmarshalJSON fails: a converter without the codec must not call handlers with empty arguments.
func (*argument) UnmarshalJSON([]byte) error {
	return errors.New("the codec's interceptor is installed without its data converter")
}

var (
	argumentType = reflect.TypeFor[argument]()
	contextType  = reflect.TypeFor[workflow.Context]()
	errorType    = reflect.TypeFor[error]()
)

// onMissingKey is what a handler does when this process lacks the key of an argument.
type onMissingKey bool

const (
	// tellMissingKey returns an error: the caller of a query, or of an update that is not accepted yet,
	// may repeat it.
	tellMissingKey onMissingKey = false
	// blockOnMissingKey blocks the workflow task: the update was accepted and is in the history.
	blockOnMissingKey onMissingKey = true
)

// openArguments wraps a handler or validator: the result has the same context and results, and an
// argument in place of every other parameter. What is no such function is returned for the SDK to
// complain about.
func (c *Codec) openArguments(handler any, missing onMissingKey) any {
	inner := reflect.ValueOf(handler)
	if !handles(inner) {
		return handler
	}
	fn := inner.Type()
	in, first := parameters(fn)
	for i := first; i < fn.NumIn(); i++ {
		in = append(in, argumentType)
	}
	outer := reflect.FuncOf(in, results(fn), false)
	return reflect.MakeFunc(outer, func(args []reflect.Value) []reflect.Value {
		opened := append([]reflect.Value{}, args[:first]...)
		for i := first; i < fn.NumIn(); i++ {
			value := reflect.New(fn.In(i))
			err := c.decodeArgument(args[i].Interface().(argument), value.Interface())
			if missing == blockOnMissingKey && errors.Is(err, keyring.ErrUnknownKey) {
				panic(err)
			}
			if err != nil {
				return failed(fn, fmt.Errorf("argument %d: %w", i-first+1, err))
			}
			opened = append(opened, value.Elem())
		}
		return inner.Call(opened)
	}).Interface()
}

// decodeArgument opens and decodes one argument; one that the caller left out keeps its zero value.
func (c *Codec) decodeArgument(arg argument, pointer any) error {
	if arg.payload == nil {
		return nil
	}
	payload, err := c.openOperator(arg.payload)
	if err != nil {
		return err
	}
	return converter.GetDefaultDataConverter().FromPayload(payload, pointer)
}

// acceptAll returns a validator for the handler that accepts everything.
func acceptAll(handler any) any {
	inner := reflect.ValueOf(handler)
	if !handles(inner) {
		return nil
	}
	fn := inner.Type()
	in, first := parameters(fn)
	for i := first; i < fn.NumIn(); i++ {
		in = append(in, fn.In(i))
	}
	validator := reflect.FuncOf(in, []reflect.Type{errorType}, false)
	return reflect.MakeFunc(validator, func([]reflect.Value) []reflect.Value {
		return []reflect.Value{reflect.Zero(errorType)}
	}).Interface()
}

// handles reports whether v is a function that can be wrapped: its last result is an error.
func handles(v reflect.Value) bool {
	if v.Kind() != reflect.Func || v.Type().IsVariadic() || v.Type().NumOut() == 0 {
		return false
	}
	return v.Type().Out(v.Type().NumOut()-1) == errorType
}

// parameters returns the leading context of fn, if it has one, and the index of its first argument.
func parameters(fn reflect.Type) (in []reflect.Type, first int) {
	if fn.NumIn() > 0 && fn.In(0).Implements(contextType) {
		return []reflect.Type{fn.In(0)}, 1
	}
	return nil, 0
}

func results(fn reflect.Type) []reflect.Type {
	out := make([]reflect.Type, fn.NumOut())
	for i := range out {
		out[i] = fn.Out(i)
	}
	return out
}

// failed returns fn's results with err as the last one and zeros before it.
func failed(fn reflect.Type, err error) []reflect.Value {
	out := make([]reflect.Value, fn.NumOut())
	for i := range out {
		out[i] = reflect.Zero(fn.Out(i))
	}
	out[len(out)-1] = reflect.ValueOf(&err).Elem()
	return out
}
