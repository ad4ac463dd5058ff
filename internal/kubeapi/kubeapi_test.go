package kubeapi_test

import (
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"castellan.dev/activities"
	"castellan.dev/internal/kubeapi"
)

func kubeconfig(t *testing.T, cluster clientcmdapi.Cluster) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	err := clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"c": &cluster},
		Contexts: map[string]*clientcmdapi.Context{"c": {Cluster: "c"}}, CurrentContext: "c",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConnectRefusesWhatIsNotSafe(t *testing.T) {
	good := kubeconfig(t, clientcmdapi.Cluster{Server: "https://cluster.test"})
	for name, c := range map[string]struct {
		config kubeapi.Config
		says   string
	}{
		"a server without TLS":               {kubeapi.Config{Kubeconfig: kubeconfig(t, clientcmdapi.Cluster{Server: "http://cluster.test"})}, "https"},
		"a server that is not verified":      {kubeapi.Config{Kubeconfig: kubeconfig(t, clientcmdapi.Cluster{Server: "https://cluster.test", InsecureSkipTLSVerify: true})}, "verified"},
		"a file that is absent":              {kubeapi.Config{Kubeconfig: filepath.Join(t.TempDir(), "absent")}, "absent"},
		"a context that the file lacks":      {kubeapi.Config{Kubeconfig: good, Context: "other"}, "other"},
		"the pod's account outside of a pod": {kubeapi.Config{}, "KUBERNETES_SERVICE_HOST"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("KUBERNETES_SERVICE_HOST", "")
			_, err := kubeapi.Connect(c.config)
			if err == nil || activities.KindOf(err) != activities.Invalid || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %v, want an invalid configuration that says %q", err, c.says)
			}
		})
	}
	if _, err := kubeapi.Connect(kubeapi.Config{Kubeconfig: good}); err != nil {
		t.Errorf("a good configuration: %v", err)
	}
}

func TestAnswersAreBounded(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		chunk := []byte(strings.Repeat(" ", 1<<20))
		for range 64 {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	client, err := kubeapi.Connect(kubeapi.Config{Kubeconfig: kubeconfig(t, clientcmdapi.Cluster{
		Server: server.URL, CertificateAuthorityData: pemOf(server),
	})})
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("got %v, want a refusal to read on", err)
	}
}

func TestErrorsGetTheirKind(t *testing.T) {
	answer := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = fmt.Fprintf(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","code":%d,"details":{"retryAfterSeconds":3}}`, status)
		}
	}
	hangUp := func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	for name, c := range map[string]struct {
		handler     http.HandlerFunc
		read, write activities.Kind
	}{
		"unauthorized":       {answer(401), activities.Denied, activities.Denied},
		"forbidden":          {answer(403), activities.Denied, activities.Denied},
		"not found":          {answer(404), activities.NotFound, activities.NotFound},
		"conflict":           {answer(409), activities.Conflict, activities.Conflict},
		"unprocessable":      {answer(422), activities.Invalid, activities.Invalid},
		"too many requests":  {answer(429), activities.Throttled, activities.Throttled},
		"internal error":     {answer(500), activities.Transient, activities.Uncertain},
		"unavailable":        {answer(503), activities.Transient, activities.Uncertain},
		"gateway timeout":    {answer(504), activities.Transient, activities.Uncertain},
		"a connection reset": {hangUp, activities.Transient, activities.Uncertain},
		"nobody listens":     {nil, activities.Transient, activities.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewTLSServer(c.handler)
			defer server.Close()
			path := kubeconfig(t, clientcmdapi.Cluster{Server: server.URL, CertificateAuthorityData: pemOf(server)})
			if c.handler == nil {
				server.Close()
			}
			checkKinds(t, path, c.read, c.write)
		})
	}
	t.Run("a server of another authority", func(t *testing.T) {
		server := httptest.NewTLSServer(answer(200))
		defer server.Close()
		checkKinds(t, kubeconfig(t, clientcmdapi.Cluster{Server: server.URL}), activities.Transient, activities.Transient)
	})
}

func checkKinds(t *testing.T, path string, read, write activities.Kind) {
	t.Helper()
	client, err := kubeapi.Connect(kubeapi.Config{Kubeconfig: path})
	if err != nil {
		t.Fatal(err)
	}
	err = client.CoreV1().RESTClient().Get().AbsPath("/x").MaxRetries(0).Do(t.Context()).Error()
	if got := activities.KindOf(kubeapi.ReadError(err, "read")); err == nil || got != read {
		t.Errorf("read: got kind %q, want %q: %v", got, read, err)
	}
	err = client.CoreV1().RESTClient().Put().AbsPath("/x").Body([]byte("{}")).MaxRetries(0).Do(t.Context()).Error()
	classified := kubeapi.WriteError(err, "write")
	if got := activities.KindOf(classified); err == nil || got != write {
		t.Errorf("write: got kind %q, want %q: %v", got, write, err)
	}
	if own, ok := classified.(*activities.Error); ok && write == activities.Throttled && own.RetryAfter != 3*time.Second {
		t.Errorf("retry after %s, want 3s", own.RetryAfter)
	}
	if kubeapi.ReadError(nil, "read") != nil || kubeapi.WriteError(nil, "write") != nil {
		t.Error("no error became one")
	}
}

func pemOf(server *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
}
