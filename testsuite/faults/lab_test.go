package faults

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.temporal.io/sdk/client"
	"k8s.io/client-go/kubernetes"

	"castellan.dev/activities/store"
	"castellan.dev/internal/api"
	"castellan.dev/internal/codec"
	"castellan.dev/internal/identity"
	"castellan.dev/internal/installation"
	"castellan.dev/internal/state"
	"castellan.dev/testsuite/servers/kube"
)

// lab is one castellan-dev that all cases share, and everything beside it.
type lab struct {
	t      testing.TB
	dir    string
	config string
	ports  string

	mu  sync.Mutex
	dev *exec.Cmd

	here       *installation.Installation
	api        *api.Client
	endpoints  state.Endpoints
	roots      *x509.CertPool
	secrets    store.Store
	reloadURL  string
	pidFile    string       // names this process, which reloads its consumers on SIGUSR1
	cluster    *kube.Server // for Kubernetes deliveries
	kubernetes kubernetes.Interface
	namespace  string
	servers    sync.Map // target to *server
}

func (l *lab) state() string { return filepath.Join(l.dir, "state") }

// newLab writes the configuration of all cases and starts castellan-dev.
func newLab(ctx context.Context, t testing.TB, cases []*trial) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir()}
	l.config = filepath.Join(l.dir, "castellan.yaml")
	l.ports = freePorts(t, 4)
	l.startReloadHook()
	l.startReloadSignal()
	l.cluster = kube.Start(t)
	l.kubernetes = l.cluster.Client()
	l.namespace = l.cluster.Namespace(t)
	for _, c := range cases {
		c.prepare(l)
	}
	if err := os.WriteFile(l.config, []byte(configuration(l, cases)), 0o600); err != nil {
		t.Fatal(err)
	}
	l.startDev(ctx)
	l.connect(ctx)
	return l
}

// configuration declares one target, host and consumer per case.
func configuration(l *lab, cases []*trial) string {
	var b strings.Builder
	b.WriteString("issuers:\n  internal: {kind: embedded}\nschedules:\n  sweep: {every: 1h}\nhosts: [")
	for i, c := range cases {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(c.target)
	}
	b.WriteString("]\ncertificates:\n")
	for _, c := range cases {
		fmt.Fprintf(&b, `  %s:
    issuer: internal
    dnsNames: [localhost]
    ipAddresses: [127.0.0.1]
    usage: both
    lifetime: 1h
    canaryGrace: 4s
    deliveries:
      - name: files
        kind: %s
        host: %s
%s%s    consumers:
      - {name: server, kind: tls, addresses: ["%s"], serverName: localhost, timeout: 2s}
`, c.target, c.kind(), c.target, c.delivery(), c.reloading(l), c.server.address())
	}
	return b.String()
}

func freePorts(t testing.TB, n int) string {
	var ports []string
	for range n {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		_, port, _ := net.SplitHostPort(listener.Addr().String())
		ports = append(ports, port)
	}
	return strings.Join(ports, " ")
}

// startReloadHook serves the HTTP reload of consumers: POST /<target>.
func (l *lab) startReloadHook() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { listener.Close() })
	l.reloadURL = "http://" + listener.Addr().String()
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s, ok := l.servers.Load(strings.TrimPrefix(r.URL.Path, "/")); ok {
			s.(*server).reload()
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
}

// startReloadSignal reloads every consumer on SIGUSR1, as a program with many certificates does.
func (l *lab) startReloadSignal() {
	l.pidFile = filepath.Join(l.dir, "consumers.pid")
	if err := os.WriteFile(l.pidFile, []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		l.t.Fatal(err)
	}
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, syscall.SIGUSR1)
	go func() {
		for range signals {
			l.servers.Range(func(_, s any) bool {
				s.(*server).reload()
				return true
			})
		}
	}()
}

// child starts the test binary again in a role.
func (l *lab) child(role string, log string, variables ...string) *exec.Cmd {
	l.t.Helper()
	cmd := exec.Command(os.Args[0]) // outlives the case that starts it; Pdeathsig ends it with the test
	cmd.Env = append(os.Environ(), append([]string{
		roleVariable + "=" + role, "FAULTS_CONFIG=" + l.config, "FAULTS_STATE=" + l.state(), "FAULTS_PORTS=" + l.ports,
	}, variables...)...)
	file, err := os.OpenFile(filepath.Join(l.dir, log), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		l.t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = file, file
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	file.Close()
	return cmd
}

func (l *lab) startDev(ctx context.Context) {
	l.mu.Lock()
	defer l.mu.Unlock()
	os.Remove(filepath.Join(l.state(), "endpoints.json"))
	l.dev = l.child(roleDev, "dev.log")
	exited := make(chan struct{})
	cmd := l.dev
	go func() { cmd.Wait(); close(exited) }()
	wait(l.t, ctx, "castellan-dev answers", func() bool {
		select {
		case <-exited:
			text, _ := os.ReadFile(filepath.Join(l.dir, "dev.log"))
			l.t.Fatalf("castellan-dev ended: %s", tail(text))
		default:
		}
		e, err := state.Dir(l.state()).Endpoints()
		l.endpoints = e
		return err == nil
	})
}

// stopDev kills castellan-dev without a chance to clean up.
func (l *lab) stopDev() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dev.Process.Signal(syscall.SIGKILL)
	for l.dev.ProcessState == nil && l.dev.Process.Signal(syscall.Signal(0)) == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

func tail(text []byte) []byte { return text[max(0, len(text)-2000):] }

// connect opens the API as operator, the clients' bundle and the store.
func (l *lab) connect(ctx context.Context) {
	var err error
	if l.here, err = installation.Open(l.config, state.Dir(l.state()), quiet()); err != nil {
		l.t.Fatal(err)
	}
	if l.api, err = l.here.API(ctx, identity.Operator); err != nil {
		l.t.Fatal(err)
	}
	text, err := os.ReadFile(l.endpoints.CA.Root)
	if err != nil {
		l.t.Fatal(err)
	}
	l.roots = x509.NewCertPool()
	l.roots.AppendCertsFromPEM(text)
	if l.secrets, err = l.here.Store(); err != nil {
		l.t.Fatal(err)
	}
}

// temporal connects to the engine as an operator would with the public tools.
func (l *lab) temporal(ctx context.Context) (client.Client, *codec.Codec, error) {
	return l.here.Engine(ctx, identity.Operator)
}

// wait polls a condition.
func wait(t testing.TB, ctx context.Context, what string, ready func() bool) {
	t.Helper()
	for !ready() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
