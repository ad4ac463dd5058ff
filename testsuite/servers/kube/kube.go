// Package kube starts a real Kubernetes control plane for tests: etcd, kube-apiserver with the RBAC
// authorizer and, where a test asks for it, kube-controller-manager, on free loopback ports, in a
// temporary directory, with certificates of its own.
//
// There is no kubelet and no scheduler: pods are accepted and never run. The servers come from the
// module testsuite/servers/kubernetes, built once and cached (package testsuite/servers/build).
// The package must not be imported by anything but tests and the programs that prepare them.
package kube

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"castellan.dev/testsuite/servers/build"
)

// Version is the version of Kubernetes that the module testsuite/servers/kubernetes builds.
const Version = "v1.36.3"

// An Option changes what Start and Run start.
type Option func(*options)

type options struct{ controllers bool }

// WithControllers adds kube-controller-manager with the controllers that make ReplicaSets, pods and
// EndpointSlices out of what a test declares.
func WithControllers() Option { return func(o *options) { o.controllers = true } }

// Binary returns the path of the servers' program and builds it first if the cache lacks it.
func Binary(ctx context.Context) (string, error) {
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		return "", errors.New("find the kubernetes module: the test binary has no source paths")
	}
	const stamp = "-X k8s.io/component-base/version."
	return build.Binary(ctx, filepath.Join(filepath.Dir(file), "..", "kubernetes"), "kubernetes",
		"-s", "-w", stamp+"gitVersion="+Version, stamp+"gitMajor=1", stamp+"gitMinor=36")
}

// Server is one running control plane.
type Server struct {
	dir        string
	program    string
	options    options
	certs      *authority
	ports      struct{ etcd, etcdPeer, api int }
	etcd       *process
	api        *process
	controller *process
}

// Start runs a control plane until the test ends.
func Start(tb testing.TB, opts ...Option) *Server {
	tb.Helper()
	server, err := Run(tb.Context(), opts...)
	if err != nil {
		tb.Fatalf("start kubernetes: %v", err)
	}
	tb.Cleanup(server.Close)
	return server
}

// Run is Start for a TestMain, where several tests share one control plane. The caller closes it.
func Run(ctx context.Context, opts ...Option) (*Server, error) {
	program, err := Binary(ctx)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "castellan-kube-")
	if err != nil {
		return nil, err
	}
	server := &Server{dir: dir, program: program}
	for _, option := range opts {
		option(&server.options)
	}
	if server.certs, err = newAuthority(dir); err != nil {
		server.Close()
		return nil, err
	}
	// A port that was free may be taken before a server binds it, so the whole is tried again.
	for range 3 {
		if err = server.start(ctx); err == nil {
			return server, nil
		}
		server.stop()
		if ctx.Err() != nil {
			break
		}
	}
	server.Close()
	return nil, err
}

// Close kills the servers and removes what they wrote.
func (s *Server) Close() {
	s.stop()
	_ = os.RemoveAll(s.dir)
}

// Kill kills kube-apiserver as kill -9 does; etcd and with it the data live on.
func (s *Server) Kill() { s.api.kill() }

// Restart starts kube-apiserver again, on the same port, and waits until it is ready.
func (s *Server) Restart(ctx context.Context) error {
	s.api.kill()
	return s.startAPI(ctx)
}

// Address is the host:port that kube-apiserver listens on.
func (s *Server) Address() string { return loopback(s.ports.api) }

func (s *Server) start(ctx context.Context) error {
	for _, port := range []*int{&s.ports.etcd, &s.ports.etcdPeer, &s.ports.api} {
		free, err := freePort()
		if err != nil {
			return err
		}
		*port = free
	}
	if err := s.writeKubeconfig(s.Kubeconfig(), s.Address(), s.admin()); err != nil {
		return err
	}
	if err := s.startEtcd(); err != nil {
		return err
	}
	if err := s.startAPI(ctx); err != nil {
		return err
	}
	if s.options.controllers {
		return s.startControllers()
	}
	return nil
}

func (s *Server) stop() {
	for _, process := range []*process{s.controller, s.api, s.etcd} {
		process.kill()
	}
	_ = os.RemoveAll(filepath.Join(s.dir, "etcd"))
}

func (s *Server) startEtcd() (err error) {
	client, peer := "https://"+loopback(s.ports.etcd), "http://"+loopback(s.ports.etcdPeer)
	s.etcd, err = launch(s.dir, s.program, "etcd",
		"--name=test", "--data-dir="+filepath.Join(s.dir, "etcd"),
		"--listen-client-urls="+client, "--advertise-client-urls="+client,
		"--listen-peer-urls="+peer, "--initial-advertise-peer-urls="+peer, "--initial-cluster=test="+peer,
		"--client-cert-auth", "--trusted-ca-file="+s.certs.caFile, "--cert-file="+s.certs.servingFile, "--key-file="+s.certs.servingKeyFile,
		"--unsafe-no-fsync", // the tests kill processes, not the machine
		"--logger=zap", "--log-level=warn")
	return err
}

func (s *Server) startAPI(ctx context.Context) (err error) {
	s.api, err = launch(s.dir, s.program, "kube-apiserver",
		"--etcd-servers=https://"+loopback(s.ports.etcd), "--etcd-cafile="+s.certs.caFile,
		"--etcd-certfile="+s.certs.adminFile, "--etcd-keyfile="+s.certs.adminKeyFile,
		"--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--secure-port="+strconv.Itoa(s.ports.api), "--endpoint-reconciler-type=none",
		"--client-ca-file="+s.certs.caFile, "--tls-cert-file="+s.certs.servingFile, "--tls-private-key-file="+s.certs.servingKeyFile,
		"--authorization-mode=RBAC", "--anonymous-auth=false",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file="+s.certs.adminFile, "--service-account-signing-key-file="+s.certs.adminKeyFile,
		"--disable-admission-plugins=ServiceAccount", // pods never run, so they need no token
		"--service-cluster-ip-range=10.96.0.0/24", "--profiling=false")
	if err != nil {
		return err
	}
	return s.ready(ctx)
}

func (s *Server) startControllers() (err error) {
	s.controller, err = launch(s.dir, s.program, "kube-controller-manager",
		"--kubeconfig="+s.Kubeconfig(), "--leader-elect=false", "--secure-port=0",
		"--controllers=deployment-controller,replicaset-controller,statefulset-controller,daemonset-controller,"+
			"endpointslice-controller,garbage-collector-controller,namespace-controller",
		"--concurrent-gc-syncs=2")
	return err
}

// ready waits until kube-apiserver says that it is.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("not ready in three minutes"))
	defer cancel()
	rest := s.Client().Discovery().RESTClient()
	poll := time.NewTicker(100 * time.Millisecond)
	defer poll.Stop()
	for {
		if _, err := rest.Get().AbsPath("/readyz").MaxRetries(0).DoRaw(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("start kube-apiserver: %w\n%s", context.Cause(ctx), s.api.tail())
		case <-s.api.ended:
			return fmt.Errorf("start kube-apiserver: it ended\n%s", s.api.tail())
		case <-s.etcd.ended:
			return fmt.Errorf("start etcd: it ended\n%s", s.etcd.tail())
		case <-poll.C:
		}
	}
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer func() { _ = listener.Close() }()
	return listener.Addr().(*net.TCPAddr).Port, nil
}
