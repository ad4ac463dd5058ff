package reload_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver/reload"
)

const canary = "canary-2f6c1d-token"

// hook starts a receiver over TLS and returns a configuration that trusts it.
func hook(t *testing.T, handle http.HandlerFunc) (reload.HTTPConfig, *httptest.Server) {
	t.Helper()
	receiver := httptest.NewTLSServer(handle)
	t.Cleanup(receiver.Close)
	roots := filepath.Join(t.TempDir(), "roots.pem")
	token := filepath.Join(t.TempDir(), "token")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: receiver.Certificate().Raw})
	if err := os.WriteFile(roots, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(token, []byte(canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := reload.HTTPConfig{URL: receiver.URL + "/reload?secret=" + canary, RootsFile: roots, TokenFile: token}
	wantNoProblems(t, config)
	return config, receiver
}

func TestHTTPSaysWhatWasDelivered(t *testing.T) {
	config, _ := hook(t, func(w http.ResponseWriter, r *http.Request) {
		var body struct{ Fingerprint string }
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.Fingerprint != "abc" {
			t.Errorf("the body says %q (%v)", body.Fingerprint, err)
		}
		if r.Method != http.MethodPost || r.Header.Get("Idempotency-Key") != "abc" || r.Header.Get("Authorization") != "Bearer "+canary {
			t.Errorf("got %s with key %q", r.Method, r.Header.Get("Idempotency-Key"))
		}
		w.WriteHeader(http.StatusNoContent)
	})
	if err := reload.NewHTTP(config, time.Now).Reload(t.Context(), "abc"); err != nil {
		t.Fatal(err)
	}
}

// TestHTTPAnswers maps every status code.
func TestHTTPAnswers(t *testing.T) {
	var code atomic.Int32
	config, _ := hook(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(int(code.Load()))
		_, _ = io.WriteString(w, canary)
	})
	special := map[int]activities.Kind{
		401: activities.Denied, 403: activities.Denied, 407: activities.Denied,
		404: activities.NotFound, 410: activities.NotFound, 409: activities.Conflict, 429: activities.Throttled,
		408: activities.Transient, 423: activities.Transient, 425: activities.Transient,
		501: activities.Invalid, 505: activities.Invalid,
	}
	hook := reload.NewHTTP(config, time.Now)
	for status := 200; status < 600; status++ {
		code.Store(int32(status))
		err := hook.Reload(t.Context(), "abc")
		if status < 300 {
			if err != nil {
				t.Errorf("%d: %v", status, err)
			}
			continue
		}
		want := special[status]
		if want == "" {
			want = activities.Invalid
			if status >= 500 {
				want = activities.Transient
			}
		}
		if err == nil || activities.KindOf(err) != want {
			t.Errorf("%d: got %v (kind %q), want kind %q", status, err, activities.KindOf(err), want)
		}
		if err != nil && strings.Contains(err.Error(), canary) {
			t.Errorf("%d: the error holds what must not be told: %v", status, err)
		}
	}
	config.Accept = []int{202}
	code.Store(200)
	wantKind(t, reload.NewHTTP(config, time.Now).Reload(t.Context(), "abc"), activities.Invalid)
}

func TestHTTPWaitsAsAsked(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		code  int
		after string
		want  time.Duration
		kind  activities.Kind
	}{
		"seconds":               {429, "7", 7 * time.Second, activities.Throttled},
		"a date":                {429, now.Add(time.Minute).Format(http.TimeFormat), time.Minute, activities.Throttled},
		"a date in the past":    {429, now.Add(-time.Minute).Format(http.TimeFormat), 0, activities.Throttled},
		"far too long":          {429, "999999", 10 * time.Minute, activities.Throttled},
		"nothing":               {429, "", 0, activities.Throttled},
		"nonsense":              {429, "soon", 0, activities.Throttled},
		"a server that is busy": {503, "3", 3 * time.Second, activities.Throttled},
		"busy without a time":   {503, "", 0, activities.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			config, _ := hook(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", c.after)
				w.WriteHeader(c.code)
			})
			err := reload.NewHTTP(config, func() time.Time { return now }).Reload(t.Context(), "abc")
			got, ok := err.(*activities.Error)
			if !ok || got.Kind != c.kind || got.RetryAfter != c.want {
				t.Errorf("got %+v, want kind %q after %v", err, c.kind, c.want)
			}
		})
	}
}

func TestHTTPWithoutAnAnswer(t *testing.T) {
	config, _ := hook(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler) // the request arrived, the answer does not
	})
	for name, c := range map[string]struct {
		change func(*reload.HTTPConfig)
		want   activities.Kind
	}{
		"the connection breaks after the request": {func(*reload.HTTPConfig) {}, activities.Uncertain},
		"the receiver is not trusted":             {func(c *reload.HTTPConfig) { c.RootsFile = "" }, activities.Denied},
		"the roots cannot be read":                {func(c *reload.HTTPConfig) { c.RootsFile = "/nonexistent" }, activities.Invalid},
		"the roots hold no certificate":           {func(c *reload.HTTPConfig) { c.RootsFile = c.TokenFile }, activities.Invalid},
		"the token cannot be read":                {func(c *reload.HTTPConfig) { c.TokenFile = "/nonexistent" }, activities.Transient},
		"nobody listens":                          {func(c *reload.HTTPConfig) { c.URL = "https://" + deaf(t) + "/?" + canary }, activities.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			changed := config
			c.change(&changed)
			err := reload.NewHTTP(changed, time.Now).Reload(t.Context(), "abc")
			wantKind(t, err, c.want)
			if strings.Contains(err.Error(), canary) {
				t.Errorf("the error holds what must not be told: %v", err)
			}
		})
	}
}

func TestHTTPIsBounded(t *testing.T) {
	config, _ := hook(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client leaves
		<-r.Context().Done()
	})
	config.Timeout = 50 * time.Millisecond
	wantKind(t, reload.NewHTTP(config, time.Now).Reload(t.Context(), "abc"), activities.Uncertain)
	config.Timeout = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := reload.NewHTTP(config, time.Now).Reload(ctx, "abc"); err == nil {
		t.Error("a cancelled request succeeded")
	}
}

// deaf returns an address at which nobody listens.
func deaf(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().String()
}
