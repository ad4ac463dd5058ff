package stepca

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"castellan.dev/activities"
)

// maxRetryAfter bounds how long a CA can make us wait.
const maxRetryAfter = time.Hour

// kindOf says what an HTTP status of step-ca, or of a proxy in front of it, means. The effect of a
// request is in doubt when a proxy lost the CA's reply (502, 504).
func kindOf(status int, effect bool) activities.Kind {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusProxyAuthRequired:
		return activities.Denied
	case http.StatusNotFound, http.StatusGone:
		return activities.NotFound
	case http.StatusConflict:
		return activities.Conflict
	case http.StatusTooManyRequests:
		return activities.Throttled
	case http.StatusRequestTimeout, http.StatusTooEarly:
		return activities.Transient
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported:
		return activities.Invalid
	case http.StatusBadGateway, http.StatusGatewayTimeout:
		if effect {
			return activities.Uncertain
		}
		return activities.Transient
	}
	if status >= 500 {
		return activities.Transient
	}
	return activities.Invalid
}

// statusError keeps the status beside the kind, for the two answers that step-ca overloads.
type statusError struct {
	status  int
	message string
}

func (e *statusError) Error() string {
	text := strconv.Itoa(e.status) + " " + http.StatusText(e.status)
	if e.message == "" {
		return text
	}
	return text + ": " + e.message
}

// refused classifies an answer that is not a success.
func (s *Issuer) refused(c call, status int, header http.Header, body []byte) error {
	answer := &statusError{status: status, message: message(body, c.secret)}
	err := activities.Errorf(kindOf(status, c.effect), "%s at %s: %w", c.act, s.base.Host, answer)
	if wait, ok := retryAfter(header, s.now()); ok {
		switch status {
		case http.StatusServiceUnavailable:
			err.Kind = activities.Throttled
			err.RetryAfter = wait
		case http.StatusTooManyRequests:
			err.RetryAfter = wait
		}
	}
	return err
}

// message takes the sentence out of step-ca's error body, or what a proxy in front of it wrote.
func message(body []byte, secret string) string {
	if secret != "" {
		body = bytes.ReplaceAll(body, []byte(secret), []byte("[token]"))
	}
	var answer struct {
		Message string `json:"message"`
	}
	if json.Unmarshal(body, &answer) == nil && answer.Message != "" {
		return shorten(answer.Message)
	}
	return shorten(string(body))
}

// lost classifies a call without an answer. Before a connection stands, the CA cannot have seen the
// request; afterwards it may have, unless it refused our certificate in the handshake.
func (s *Issuer) lost(c call, sent bool, cause error) error {
	kind := activities.Transient
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case refusedCertificate(cause):
		kind = activities.Denied
	case errors.As(cause, &authority), errors.As(cause, &name):
		kind = activities.Invalid
	case sent && c.effect:
		kind = activities.Uncertain
	}
	return activities.Errorf(kind, "%s at %s: %w", c.act, s.base.Host, cause)
}

// unreadable classifies a success whose body makes no sense. The effect has happened all the same.
func (s *Issuer) unreadable(c call, format string, args ...any) error {
	kind := activities.Invalid
	if c.effect {
		kind = activities.Uncertain
	}
	return activities.Errorf(kind, "%s at %s: the CA accepted, but its reply is unusable: %s", c.act, s.base.Host, fmt.Sprintf(format, args...))
}

// refusedCertificate reports whether the CA answered our certificate with a TLS alert. In TLS 1.3 the
// alert arrives after the client's side of the handshake has ended, in place of the HTTP reply.
func refusedCertificate(err error) bool {
	var remote *net.OpError
	if !errors.As(err, &remote) || remote.Op != "remote error" {
		return false
	}
	for _, alert := range []tls.AlertError{
		42,  // bad_certificate
		43,  // unsupported_certificate
		44,  // certificate_revoked
		45,  // certificate_expired
		46,  // certificate_unknown
		48,  // unknown_ca
		49,  // access_denied
		116, // certificate_required
	} {
		if remote.Err.Error() == alert.Error() {
			return true
		}
	}
	return false
}

// unauthorized reports whether the CA did not accept the token, as opposed to what it asked for.
func unauthorized(err error) bool {
	var answer *statusError
	return errors.As(err, &answer) && answer.status == http.StatusUnauthorized
}

// alreadyRevoked recognises step-ca's answer to a repeated revocation, which is 400 and a sentence:
// https://github.com/smallstep/certificates/blob/v0.30.2/authority/tls.go (failRevoke).
func alreadyRevoked(err error) bool {
	var answer *statusError
	return errors.As(err, &answer) && answer.status == http.StatusBadRequest && strings.Contains(answer.message, "is already revoked")
}

// retryAfter reads the header in both of its forms (RFC 9110 section 10.2.3).
func retryAfter(header http.Header, now time.Time) (time.Duration, bool) {
	value := header.Get("Retry-After")
	if value == "" {
		return 0, false
	}
	var wait time.Duration
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if moment, err := http.ParseTime(value); err == nil {
		wait = moment.Sub(now)
	} else {
		return 0, false
	}
	return min(max(wait, 0), maxRetryAfter), true
}
