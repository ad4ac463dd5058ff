package kubernetes_test

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"path/filepath"
	"sync"
	"testing"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// door stands before the real API server. It counts requests by method and lets a test do something
// when one comes by.
type door struct {
	mu    sync.Mutex
	count map[string]int
	pass  func(w http.ResponseWriter, r *http.Request, forward http.Handler)
}

// newDoor returns a door and a client that goes through it, with every right.
func newDoor(t *testing.T) (*door, kubernetes.Interface) {
	t.Helper()
	transport, err := rest.TransportFor(cluster.Config())
	if err != nil {
		t.Fatal(err)
	}
	forward := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "https", Host: cluster.Address()})
	forward.Transport = transport
	d := &door{count: map[string]int{}}
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d.mu.Lock()
		d.count[r.Method]++
		pass := d.pass
		d.mu.Unlock()
		if pass == nil {
			forward.ServeHTTP(w, r)
			return
		}
		pass(w, r, forward)
	}))
	t.Cleanup(server.Close)
	path := filepath.Join(t.TempDir(), "kubeconfig")
	err = clientcmd.WriteToFile(clientcmdapi.Config{
		Clusters: map[string]*clientcmdapi.Cluster{"door": {
			Server:                   server.URL,
			CertificateAuthorityData: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}),
		}},
		Contexts:       map[string]*clientcmdapi.Context{"door": {Cluster: "door"}},
		CurrentContext: "door",
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	return d, connect(t, path)
}

// on sets what happens when a request of that method comes by; every other one just passes.
func (d *door) on(method string, do func(w http.ResponseWriter, r *http.Request, forward http.Handler)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.pass = func(w http.ResponseWriter, r *http.Request, forward http.Handler) {
		if r.Method != method {
			forward.ServeHTTP(w, r)
			return
		}
		do(w, r, forward)
	}
}

// requests returns how many of that method have come by.
func (d *door) requests(method string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.count[method]
}

// loseReply lets the request have its effect and breaks the connection instead of answering.
func loseReply(_ http.ResponseWriter, r *http.Request, forward http.Handler) {
	forward.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}
