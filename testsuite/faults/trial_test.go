package faults

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	core "k8s.io/api/core/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"

	"castellan.dev/activities"
	"castellan.dev/internal/api"
	"castellan.dev/testsuite/fault"
)

// The kinds of delivery and reload that cases are spread over.
const (
	layoutGeneration = "generation"
	layoutCombined   = "combined"
	layoutKubernetes = "kubernetes"
	reloadHot        = "hot"
	reloadHTTP       = "http"
	reloadSignal     = "signal"
)

// trial is one case: a fault that meets a step of a rotation.
type trial struct {
	step   string
	fault  string
	layout string
	reload string
	alone  bool // it disturbs what other cases share

	compromise bool // the second rotation revokes the previous
	between    bool // a proxy stands between the worker and the target
	outage     bool // the consumer itself is broken for a while: I1 says nothing
	first      bool // the first rotation is over

	meet func(context.Context, *trial) error // drives the second rotation through the fault
	ends activities.State                    // how that rotation must end; empty: RETIRED

	target string
	dir    string
	lab    *lab
	server *server
	probe  *probe
	proxy  *fault.Proxy
	worker *exec.Cmd
	live   api.Live
}

func (c *trial) name() string {
	return strings.Join([]string{c.step, c.fault, c.layout, c.reload}, "/")
}

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// prepare makes what the configuration of the case refers to.
func (c *trial) prepare(l *lab) {
	c.lab = l
	c.dir = filepath.Join(l.dir, c.target)
	if err := os.MkdirAll(filepath.Join(c.dir, "served"), 0o755); err != nil {
		l.t.Fatal(err)
	}
	var err error
	if c.server, err = newServer(c.loader(), c.reload == reloadHot); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(c.server.close)
	l.servers.Store(c.target, c.server)
}

func (c *trial) loader() func() (tls.Certificate, error) {
	if c.layout == layoutKubernetes {
		return func() (tls.Certificate, error) {
			secret, err := c.secret()
			if err != nil {
				return tls.Certificate{}, err
			}
			return tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
		}
	}
	if c.layout == layoutCombined {
		return combined(filepath.Join(c.dir, "served", "pair.pem"))
	}
	return generation(filepath.Join(c.dir, "served"))
}

// secret reads the Kubernetes Secret of the case.
func (c *trial) secret() (*core.Secret, error) {
	return c.lab.kubernetes.CoreV1().Secrets(c.lab.namespace).Get(context.Background(), c.target, meta.GetOptions{})
}

// key reads the delivered key.
func (c *trial) key() ([]byte, error) {
	switch c.layout {
	case layoutKubernetes:
		secret, err := c.secret()
		if err != nil {
			return nil, err
		}
		return secret.Data["tls.key"], nil
	case layoutCombined:
		return os.ReadFile(filepath.Join(c.dir, "served", "pair.pem"))
	}
	return os.ReadFile(filepath.Join(c.dir, "served", "current", "tls.key"))
}

// kind is the delivery's kind in the configuration.
func (c *trial) kind() string {
	if c.layout == layoutKubernetes {
		return "kubernetes"
	}
	return "files"
}

func (c *trial) delivery() string {
	if c.layout == layoutKubernetes {
		kubeconfig := c.lab.cluster.Kubeconfig()
		if c.between {
			kubeconfig = c.lab.cluster.KubeconfigVia(c.lab.t, c.targetProxy())
		}
		return fmt.Sprintf("        kubeconfig: %s\n        namespace: %s\n        secret: %s\n", kubeconfig, c.lab.namespace, c.target)
	}
	if c.layout == layoutCombined {
		return fmt.Sprintf("        layout: combined\n        path: %s\n", filepath.Join(c.dir, "served", "pair.pem"))
	}
	return fmt.Sprintf("        directory: %s\n", filepath.Join(c.dir, "served"))
}

func (c *trial) reloading(l *lab) string {
	if c.reload == reloadSignal {
		return fmt.Sprintf("        reload: {kind: signal, pidFile: %s, signal: USR1}\n", l.pidFile)
	}
	if c.reload == reloadHTTP {
		return fmt.Sprintf("        reload: {kind: http, url: %s/%s}\n", l.reloadURL, c.target)
	}
	return ""
}

// start runs a worker process of the case's host; at names the gate, others are variables.
func (c *trial) start(ctx context.Context, at string, variables ...string) error {
	for _, leftover := range []string{"reached", "go", "outcome"} {
		os.Remove(filepath.Join(c.dir, leftover))
	}
	variables = append([]string{"FAULTS_HOST=" + c.target, "FAULTS_AT=" + at, "FAULTS_DIR=" + c.dir}, variables...)
	c.worker = c.lab.child(roleWorker, c.target+".log", variables...)
	ready := filepath.Join(c.dir, fmt.Sprintf("ready-%d", c.worker.Process.Pid))
	ended := make(chan struct{})
	cmd := c.worker
	go func() { cmd.Wait(); close(ended) }()
	return poll(ctx, "the worker is ready", func() (bool, error) {
		select {
		case <-ended:
			text, _ := os.ReadFile(filepath.Join(c.lab.dir, c.target+".log"))
			dev, _ := os.ReadFile(filepath.Join(c.lab.dir, "dev.log"))
			return false, fmt.Errorf("the worker ended: %s\ncastellan-dev said: %s", tail(text), tail(dev))
		default:
			return exists(ready), nil
		}
	})
}

// kill ends the worker at once.
func (c *trial) kill() {
	if c.worker == nil {
		return
	}
	c.worker.Process.Signal(syscall.SIGKILL)
	for c.worker.Process.Signal(syscall.Signal(0)) == nil {
		time.Sleep(5 * time.Millisecond)
	}
	c.worker = nil
}

// let opens the gate.
func (c *trial) let() error { return os.WriteFile(filepath.Join(c.dir, "go"), nil, 0o600) }

// reached waits for the gate.
func (c *trial) reached(ctx context.Context) error {
	return poll(ctx, "the step is reached", func() (bool, error) { return exists(filepath.Join(c.dir, "reached")), nil })
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// rotate asks for a rotation.
func (c *trial) rotate(ctx context.Context) error {
	return poll(ctx, "the rotation starts", func() (bool, error) {
		_, err := c.lab.api.Rotate(ctx, c.target, api.RotateRequest{Reason: c.name(), Compromise: c.compromise && c.first})
		if activities.KindOf(err) == activities.Transient && err != nil {
			return false, nil // castellan-dev is just being restarted
		}
		return err == nil, err
	})
}

// look reads the state of the case's rotation.
func (c *trial) look(ctx context.Context) error {
	live, err := c.lab.api.Live(ctx, c.target, "")
	if err == nil {
		c.live = live
	}
	if err != nil && activities.KindOf(err) == activities.Transient {
		return nil
	}
	return err
}

// ended waits until the rotation is over and returns its state.
func (c *trial) ended(ctx context.Context) (activities.State, error) {
	c.live = api.Live{}
	err := poll(ctx, "the rotation ends", func() (bool, error) {
		err := c.look(ctx)
		return c.live.Result != nil || c.live.Error != "" && c.live.Status != "running", err
	})
	if err != nil {
		return "", fmt.Errorf("%w (it is %s, waits for %q, stragglers %v)", err, c.live.State.State, c.live.Waiting, c.live.Stragglers)
	}
	if c.live.Result == nil {
		return "", fmt.Errorf("the workflow ended %s: %s", c.live.Status, c.live.Error)
	}
	return c.live.Result.State, nil
}

// finish expects the rotation to end in a state.
func (c *trial) finish(ctx context.Context, want activities.State) error {
	got, err := c.ended(ctx)
	if err == nil && got != want {
		err = fmt.Errorf("ended %s (%s), want %s", got, c.live.Result.Sentence, want)
	}
	return err
}

// poll repeats until done, an error, or the context ends.
func poll(ctx context.Context, what string, done func() (bool, error)) error {
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited in vain: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// run brings the target to a first certificate, starts the probe, meets the fault, and returns every
// violation of an invariant.
func (c *trial) run(ctx context.Context, t *testing.T) (violations []string) {
	defer c.kill()
	if err := c.start(ctx, ""); err != nil {
		return []string{err.Error()}
	}
	if err := c.rotate(ctx); err != nil {
		return []string{"first rotation: " + err.Error()}
	}
	if err := c.finish(ctx, activities.Retired); err != nil {
		return []string{"first rotation: " + err.Error()}
	}
	c.kill()
	c.first = true
	probing, stop := context.WithCancel(ctx)
	defer stop()
	c.probe = startProbe(probing, c.server.address(), c.lab.roots)
	if err := c.meet(ctx, c); err != nil {
		violations = append(violations, err.Error())
	}
	enough := poll(ctx, "the probe has seen enough", func() (bool, error) {
		samples, _, _ := c.probe.read()
		return samples >= 20, nil
	})
	if enough != nil {
		violations = append(violations, enough.Error())
	}
	stop()
	return append(violations, c.check(ctx)...)
}

func (c *trial) end() activities.State {
	if c.ends == "" {
		return activities.Retired
	}
	return c.ends
}

// targetProxy puts a proxy before the Kubernetes apiserver and returns its address.
func (c *trial) targetProxy() string {
	var err error
	if c.proxy, err = fault.New(c.lab.cluster.Address()); err != nil {
		c.lab.t.Fatal(err)
	}
	c.lab.t.Cleanup(func() { c.proxy.Close() })
	return c.proxy.Address()
}

// issuerProxy puts a proxy before the embedded authority.
func (c *trial) issuerProxy(t testing.TB) (string, error) {
	address, err := url.Parse(c.lab.endpoints.CA.URL)
	if err != nil {
		return "", err
	}
	if c.proxy, err = fault.New(address.Host); err != nil {
		return "", err
	}
	t.Cleanup(func() { c.proxy.Close() })
	return "FAULTS_ISSUER=https://" + c.proxy.Address(), nil
}
