package stepca_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/issue"
)

// wantKind is the table of the package in another form: what each status means for an act that
// changes something, and for one that only reads.
func wantKind(status int) (effect, read activities.Kind) {
	both := func(kind activities.Kind) (activities.Kind, activities.Kind) { return kind, kind }
	switch status {
	case 401, 403, 407:
		return both(activities.Denied)
	case 404, 410:
		return both(activities.NotFound)
	case 409:
		return both(activities.Conflict)
	case 408, 425:
		return both(activities.Transient)
	case 429:
		return both(activities.Throttled)
	case 501, 505:
		return both(activities.Invalid)
	case 502, 504:
		return activities.Uncertain, activities.Transient
	}
	if status >= 500 {
		return both(activities.Transient)
	}
	return both(activities.Invalid) // redirects, and every other way of saying that we are wrong
}

func TestEveryStatusHasAKind(t *testing.T) {
	fake := newFakeCA(t)
	issuer := newIssuer(t, fake.config(t))
	csr := newCSR(t, generate(t), "status.example")
	certificate := newSigner(t, time.Now().Add(time.Hour)).root
	for status := 300; status < 600; status++ {
		refuse := func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(status)
		}
		for _, path := range []string{"/1.0/sign", "/1.0/revoke", "/1.0/crl"} {
			fake.on(path, refuse)
		}
		effect, read := wantKind(status)
		_, issueErr := issuer.Issue(t.Context(), issue.Request{CSR: csr})
		_, listErr := issuer.RevocationList(t.Context())
		for act, test := range map[string]struct {
			err  error
			want activities.Kind
		}{
			"issue":           {issueErr, effect},
			"revoke":          {issuer.Revoke(t.Context(), issue.Revocation{Certificate: certificate}), effect},
			"revocation list": {listErr, read},
		} {
			if test.err == nil {
				t.Errorf("%s, status %d: it succeeded", act, status)
				continue
			}
			if got := activities.KindOf(test.err); got != test.want {
				t.Errorf("%s, status %d: got %q, want %q", act, status, got, test.want)
			}
		}
	}
	if got := len(fake.requests("/elsewhere")); got > 0 {
		t.Errorf("%d redirects were followed", got)
	}
}

func TestSuccessWithoutACertificateIsUncertain(t *testing.T) {
	fake := newFakeCA(t)
	issuer := newIssuer(t, fake.config(t))
	csr := newCSR(t, generate(t), "status.example")
	for name, body := range map[string]string{
		"nothing":          "",
		"no JSON":          "<html>",
		"an empty object":  "{}",
		"no certificate":   `{"crt":"hello","ca":"world"}`,
		"too much of it":   `{"crt":"` + strings.Repeat("A", 2<<20) + `"}`,
		"garbage in a PEM": `{"certChain":["-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			fake.on("/1.0/sign", func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(http.StatusCreated)
				_, _ = w.Write([]byte(body))
			})
			_, err := issuer.Issue(t.Context(), issue.Request{CSR: csr})
			if err == nil || activities.KindOf(err) != activities.Uncertain {
				t.Errorf("got %v, want uncertain", err)
			}
		})
	}
	t.Run("a reply that ends early", func(t *testing.T) {
		fake.on("/1.0/sign", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			w.WriteHeader(http.StatusCreated)
			_, _ = w.Write([]byte(`{"crt":`))
		})
		_, err := issuer.Issue(t.Context(), issue.Request{CSR: csr})
		if err == nil || activities.KindOf(err) != activities.Uncertain {
			t.Errorf("got %v, want uncertain", err)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	fake := newFakeCA(t)
	issuer := newIssuer(t, fake.config(t))
	csr := newCSR(t, generate(t), "status.example")
	for name, test := range map[string]struct {
		status   int
		header   string
		kind     activities.Kind
		min, max time.Duration
	}{
		"seconds":                    {429, "7", activities.Throttled, 7 * time.Second, 7 * time.Second},
		"a date":                     {429, time.Now().Add(10 * time.Minute).UTC().Format(http.TimeFormat), activities.Throttled, time.Minute, 10 * time.Minute},
		"a date that has passed":     {429, time.Now().Add(-time.Hour).UTC().Format(http.TimeFormat), activities.Throttled, 0, 0},
		"longer than we would wait":  {429, "99999999", activities.Throttled, time.Hour, time.Hour},
		"nonsense":                   {429, "soon", activities.Throttled, 0, 0},
		"nothing":                    {429, "", activities.Throttled, 0, 0},
		"a CA that is busy":          {503, "3", activities.Throttled, 3 * time.Second, 3 * time.Second},
		"a CA that is down":          {503, "", activities.Transient, 0, 0},
		"an error that it fits not":  {500, "3", activities.Transient, 0, 0},
		"a refusal that it fits not": {403, "3", activities.Denied, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			fake.on("/1.0/sign", func(w http.ResponseWriter, _ *http.Request) {
				if test.header != "" {
					w.Header().Set("Retry-After", test.header)
				}
				w.WriteHeader(test.status)
			})
			_, err := issuer.Issue(t.Context(), issue.Request{CSR: csr})
			var own *activities.Error
			if !errors.As(err, &own) {
				t.Fatalf("got %v, want an error with a kind", err)
			}
			if own.Kind != test.kind || own.RetryAfter < test.min || own.RetryAfter > test.max {
				t.Errorf("got %s after %s, want %s after %s to %s", own.Kind, own.RetryAfter, test.kind, test.min, test.max)
			}
		})
	}
}

func TestErrorsQuoteTheCAButNoToken(t *testing.T) {
	fake := newFakeCA(t)
	issuer := newIssuer(t, fake.config(t))
	csr := newCSR(t, generate(t), "quoted.example")
	fake.on("/1.0/sign", func(w http.ResponseWriter, _ *http.Request) {
		requests := fake.requests("/1.0/sign")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(map[string]any{
			"status": 403, "message": fmt.Sprintf("no\nway: %s", requests[len(requests)-1].body["ott"]),
		})
	})
	_, err := issuer.Issue(t.Context(), issue.Request{CSR: csr})
	if err == nil {
		t.Fatal("it succeeded")
	}
	token := fake.requests("/1.0/sign")[0].body["ott"].(string)
	shown := fmt.Sprintf("%v %+v %#v", err, err, err)
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		shown += fmt.Sprintf(" %+v", cause)
	}
	for _, piece := range strings.Split(token, ".") {
		if strings.Contains(shown, piece) {
			t.Fatal("the error holds a part of the token")
		}
	}
	if !strings.Contains(err.Error(), "no way: [token]") {
		t.Errorf("got %q, want the CA's own words", err)
	}
}
