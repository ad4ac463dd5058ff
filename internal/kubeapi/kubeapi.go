// Package kubeapi is the one way castellan reaches a Kubernetes cluster: how it connects, and what
// the answers mean in the error kinds of package activities.
//
// Deliveries and verifiers that talk to Kubernetes share it, each with the credential of its own
// zone. It knows no resource, makes no decision and keeps nothing.
package kubeapi

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"castellan.dev/activities"
)

// Config says which cluster, and as whom.
type Config struct {
	Kubeconfig string `yaml:"kubeconfig"` // path of a kubeconfig file, absolute; default: the service account of the pod we run in
	Context    string `yaml:"context"`    // a context of that file; default: its current context
}

// Check reports every problem of the configuration.
func (c Config) Check(report func(field, value, want string)) {
	if c.Kubeconfig != "" && !filepath.IsAbs(c.Kubeconfig) {
		report("kubeconfig", c.Kubeconfig, "an absolute path, or nothing for the pod's own service account")
	}
	if c.Kubeconfig == "" && c.Context != "" {
		report("context", c.Context, "a kubeconfig file that has this context, or nothing")
	}
}

const (
	requestTimeout = 15 * time.Second
	maxBody        = 32 << 20 // a list page is a tenth of it at most
)

// Connect makes a client. It does not reach the cluster yet. A configuration that would send a
// credential in clear or to an unverified server is refused.
func Connect(config Config) (kubernetes.Interface, error) {
	rc, err := load(config)
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "load cluster configuration %q: %w", config.Kubeconfig, err)
	}
	server, err := url.Parse(rc.Host)
	if err != nil || server.Scheme != "https" || rc.Insecure {
		return nil, activities.Errorf(activities.Invalid, "load cluster configuration %q: want an https server whose certificate is verified", config.Kubeconfig)
	}
	rc.UserAgent = "castellan"
	rc.Timeout = requestTimeout
	rc.QPS, rc.Burst = 50, 100 // the API server has its own fair queueing; this only bounds a burst
	rc.WarningHandler = rest.NoWarnings{}
	rc.Wrap(func(next http.RoundTripper) http.RoundTripper { return bounded{next} })
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "load cluster configuration %q: %w", config.Kubeconfig, err)
	}
	return client, nil
}

func load(config Config) (*rest.Config, error) {
	if config.Kubeconfig == "" {
		return rest.InClusterConfig()
	}
	return clientcmd.NewNonInteractiveDeferredLoadingClientConfig(
		&clientcmd.ClientConfigLoadingRules{ExplicitPath: config.Kubeconfig},
		&clientcmd.ConfigOverrides{CurrentContext: config.Context},
	).ClientConfig()
}

// bounded refuses to read an answer of unreasonable size.
type bounded struct{ next http.RoundTripper }

func (b bounded) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := b.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	response.Body = &boundedBody{ReadCloser: response.Body, left: maxBody}
	return response, nil
}

type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fmt.Errorf("read answer: larger than %d bytes", maxBody)
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	return n, err
}
