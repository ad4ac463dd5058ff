package webui

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"

	"castellan.dev/activities"
	"castellan.dev/internal/engine"
	"castellan.dev/internal/identity"
)

// open mounts the UI as castellan does, over a real engine with one workflow.
func open(t *testing.T) *httptest.Server {
	t.Helper()
	dir := t.TempDir()
	authority, err := identity.OpenAuthority(identity.AuthorityConfig{Dir: filepath.Join(dir, "identity")})
	if err != nil {
		t.Fatal(err)
	}
	source := func(name string) *identity.Source {
		s, err := identity.NewSource(t.Context(), identity.SourceConfig{Name: name, Renewer: authority.Renewer(name)})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	e, err := engine.Start(t.Context(), engine.Config{Dir: filepath.Join(dir, "engine"), Identity: source(identity.Engine)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Stop() })
	operator, err := e.Dial(t.Context(), source(identity.Operator))
	if err != nil {
		t.Fatal(err)
	}
	defer operator.Close()
	if _, err := operator.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: "rotate/payments", TaskQueue: activities.Control.Queue(""),
	}, "rotation"); err != nil {
		t.Fatal(err)
	}
	handler, err := New(Config{Address: e.Address(), Namespace: e.Namespace(), TLS: source(identity.UI).TLSClient(identity.Engine)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { handler.Close() })
	mux := http.NewServeMux()
	mux.Handle(Prefix, handler)
	mux.Handle(Prefix+"/", handler)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

func send(t *testing.T, method, url string, header ...string) (int, string, http.Header) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body), response.Header
}

func TestPagesAreServedBelowThePrefix(t *testing.T) {
	server := open(t)
	for _, path := range []string{"", "/", "/namespaces/castellan/workflows"} {
		status, body, header := send(t, "GET", server.URL+Prefix+path)
		if status != http.StatusOK || !strings.Contains(body, `base: "/temporal"`) {
			t.Errorf("GET %q: status %d, page lacks its base", path, status)
		}
		if !strings.Contains(header.Get("Content-Security-Policy"), "'sha256-") {
			t.Errorf("GET %q: no content security policy", path)
		}
	}
	_, page, _ := send(t, "GET", server.URL+Prefix)
	scripts := regexp.MustCompile(`"(/temporal/_app/[^"]+\.js)"`).FindAllStringSubmatch(page, -1)
	if len(scripts) == 0 {
		t.Fatal("the page names no script below the prefix")
	}
	for _, script := range scripts[:2] {
		status, _, header := send(t, "GET", server.URL+script[1])
		if status != http.StatusOK || !strings.Contains(header.Get("Content-Type"), "javascript") {
			t.Errorf("GET %s: status %d, type %q", script[1], status, header.Get("Content-Type"))
		}
	}
}

func TestEngineIsShown(t *testing.T) {
	server := open(t)
	api := server.URL + Prefix + "/api/v1"

	status, body, _ := send(t, "GET", api+"/namespaces")
	if status != http.StatusOK || !strings.Contains(body, `"castellan"`) {
		t.Errorf("namespaces: status %d, body %.300s", status, body)
	}
	status, body, header := send(t, "GET", api+"/namespaces/castellan/workflows/rotate%2Fpayments")
	if status != http.StatusOK || !strings.Contains(body, `"rotate/payments"`) {
		t.Errorf("workflow: status %d, body %.300s", status, body)
	}
	if got, want := header.Get("Cache-Control"), "no-store"; got != want {
		t.Errorf("workflow: Cache-Control %q, want %q", got, want)
	}
	status, body, _ = send(t, "GET", api+"/namespaces/temporal-system/workflows")
	if status == http.StatusOK {
		t.Errorf("the server's own namespace was shown: %.300s", body)
	}

	_, body, _ = send(t, "GET", api+"/settings")
	var settings struct {
		DefaultNamespace                           string
		Codec                                      struct{ Endpoint string }
		DisableWriteActions, WorkflowResetDisabled bool
		DisableNewsFetch                           bool
	}
	if err := json.Unmarshal([]byte(body), &settings); err != nil {
		t.Fatal(err)
	}
	if settings.DefaultNamespace != "castellan" || settings.Codec.Endpoint != "/codec" ||
		!settings.DisableWriteActions || !settings.WorkflowResetDisabled || !settings.DisableNewsFetch {
		t.Errorf("settings: got %+v, want namespace, same-origin codec, no writes and no news", settings)
	}
}

func TestNothingCanBeChanged(t *testing.T) {
	server := open(t)
	workflow := "/api/v1/namespaces/castellan/workflows/rotate%2Fpayments"
	for name, request := range map[string][2]string{
		"terminate":                         {"POST", workflow + "/terminate"},
		"signal":                            {"POST", workflow + "/signal/pause"},
		"cancel":                            {"POST", workflow + "/cancel"},
		"delete a schedule":                 {"DELETE", "/api/v1/namespaces/castellan/schedules/sweep"},
		"update the namespace":              {"POST", "/api/v1/namespaces/castellan/update"},
		"a signal that looks like a query":  {"POST", "/api/v1/namespaces/castellan/workflows/a%2Fquery%2Fb/signal/pause"},
		"a signal behind a segment 'query'": {"POST", "/api/v1/namespaces/castellan/workflows/x/query/y/../../signal/pause"},
		"put":                               {"PUT", workflow + "/query/state"},
	} {
		status, body, _ := send(t, request[0], server.URL+Prefix+request[1])
		if status != http.StatusMethodNotAllowed && status != http.StatusNotFound {
			t.Errorf("%s: status %d, body %.200s; want it refused", name, status, body)
		}
	}
	status, _, _ := send(t, "POST", server.URL+Prefix+workflow+"/query/state", "Sec-Fetch-Site", "cross-site")
	if got, want := status, http.StatusForbidden; got != want {
		t.Errorf("a query from another site: status %d, want %d", got, want)
	}
	// The way is open for queries: it is the engine that answers, here that no worker does so.
	status, body, _ := send(t, "POST", server.URL+Prefix+workflow+"/query/state", "Grpc-Timeout", "200m")
	if status == http.StatusMethodNotAllowed || status == http.StatusForbidden {
		t.Errorf("a query: status %d, body %.200s; want it passed on", status, body)
	}
	_, body, _ = send(t, "GET", server.URL+Prefix+workflow)
	if !strings.Contains(body, "WORKFLOW_EXECUTION_STATUS_RUNNING") {
		t.Errorf("the workflow runs no more: %.300s", body)
	}
}
