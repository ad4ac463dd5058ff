package kubeapi

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"castellan.dev/activities"
)

// ReadError gives the error of a request without effect its kind. It returns nil for nil.
func ReadError(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return classify(err, kindOf(err), fmt.Sprintf(format, args...))
}

// WriteError gives the error of a request with an effect its kind: where the cluster did not say that
// it refused the write, and the request may have been sent, the outcome is Uncertain.
func WriteError(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	kind := kindOf(err)
	if kind == activities.Transient && !neverSent(err) {
		kind = activities.Uncertain
	}
	return classify(err, kind, fmt.Sprintf(format, args...))
}

func classify(err error, kind activities.Kind, act string) error {
	classified := activities.Errorf(kind, "%s: %w", act, err)
	if seconds, ok := apierrors.SuggestsClientDelay(err); ok && kind == activities.Throttled {
		classified.RetryAfter = time.Duration(seconds) * time.Second
	}
	return classified
}

// kindOf reads a status as the API conventions define it:
// https://github.com/kubernetes/community/blob/main/contributors/devel/sig-architecture/api-conventions.md#http-status-codes
func kindOf(err error) activities.Kind {
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		return activities.Transient
	}
	switch code := int(status.Status().Code); {
	case code == http.StatusConflict, code == http.StatusPreconditionFailed:
		return activities.Conflict
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return activities.Denied
	case code == http.StatusNotFound, code == http.StatusGone:
		return activities.NotFound
	case code == http.StatusTooManyRequests:
		return activities.Throttled
	case code == http.StatusRequestTimeout:
		return activities.Transient
	case code >= 400 && code < 500:
		return activities.Invalid
	}
	return activities.Transient
}

// neverSent reports whether the request certainly had no effect, because no connection was made. A
// 5xx is no such answer: it may come from a proxy, or from a server that lost its store's reply.
func neverSent(err error) bool {
	var dial *net.OpError
	if errors.As(err, &dial) && dial.Op == "dial" {
		return true
	}
	var certificate *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	return errors.As(err, &certificate) || errors.As(err, &authority)
}
