package activities

import (
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/temporal"
)

// Kind says what a failure means for the caller. It is assigned once, at the vendor boundary, and
// travels as the Temporal application error type. The strings are API: never change one.
type Kind string

const (
	// Transient failures go away by themselves: connection refused, 5xx, timeouts before any effect.
	Transient Kind = "transient"
	// Throttled means the vendor asked us to slow down; RetryAfter says until when.
	Throttled Kind = "throttled"
	// Denied means the credential lacks the right. Retrying does not help.
	Denied Kind = "denied"
	// Invalid means the request itself is wrong (configuration, parameters). Retrying does not help.
	Invalid Kind = "invalid"
	// NotFound means the named thing does not exist at the vendor.
	NotFound Kind = "not_found"
	// Conflict means somebody else changed the thing since we looked. Observe again, never overwrite.
	Conflict Kind = "conflict"
	// Uncertain means the effect may or may not have happened. Observe, do not repeat blindly.
	Uncertain Kind = "uncertain"
	// Fenced means a newer epoch has been here; the step is late and must stop.
	Fenced Kind = "fenced"
	// Failed means the thing was checked and is bad: a candidate that does not verify.
	Failed Kind = "failed"
)

// Error is the one error type that crosses a family's boundary. Detail is for operators: it names
// the act, the thing and the cause, and never holds a secret.
type Error struct {
	Kind       Kind
	Detail     string
	RetryAfter time.Duration // only with Throttled; zero means the retry policy decides
	Final      bool          // repeating the step cannot help, although its kind usually may
	Cause      error
}

// Errorf makes an Error of the given kind. The format follows fmt.Errorf, %w included.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Detail: err.Error(), Cause: errors.Unwrap(err)}
}

func (e *Error) Error() string { return e.Detail }

// Unwrap returns the cause, so that errors.Is and errors.As see through the classification.
func (e *Error) Unwrap() error { return e.Cause }

// KindOf returns the kind of err, on either side of Temporal's wire: an *Error, or an application
// error that was one. Anything unclassified is Transient, because the retry policy is bounded and
// an unknown failure must not be taken for a final one.
func KindOf(err error) Kind {
	var own *Error
	if errors.As(err, &own) {
		return own.Kind
	}
	var app *temporal.ApplicationError
	if errors.As(err, &app) && known(Kind(app.Type())) {
		return Kind(app.Type())
	}
	return Transient
}

// known reports whether k is one of the kinds above.
func known(k Kind) bool {
	switch k {
	case Transient, Throttled, Denied, Invalid, NotFound, Conflict, Uncertain, Fenced, Failed:
		return true
	}
	return false
}

// final reports whether a retry of the same step cannot help. Conflict and Uncertain are retryable
// here: every step observes before it acts, so its next attempt settles them.
func final(k Kind) bool {
	switch k {
	case Denied, Invalid, Fenced, Failed:
		return true
	}
	return false
}

// toTemporal turns err into the application error that the workflow sees. Errors that the SDK must
// see as they are (cancellation, its own application errors) pass unchanged.
func toTemporal(err error) error {
	if err == nil {
		return nil
	}
	var own *Error
	if !errors.As(err, &own) {
		return err
	}
	return temporal.NewApplicationErrorWithOptions(err.Error(), string(own.Kind), temporal.ApplicationErrorOptions{
		NonRetryable:   own.Final || final(own.Kind),
		NextRetryDelay: own.RetryAfter,
	})
}
