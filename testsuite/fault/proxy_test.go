package fault_test

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"castellan.dev/testsuite/fault"
)

// target is an HTTP server that counts what reached it.
type target struct {
	*httptest.Server
	effects atomic.Int64
}

func newTarget(t *testing.T, version uint16) *target {
	t.Helper()
	counted := &target{}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		counted.effects.Add(1)
		_, _ = w.Write(bytes.ToUpper(body))
	})
	counted.Server = httptest.NewUnstartedServer(handler)
	if version == 0 {
		counted.Start()
	} else {
		counted.TLS = &tls.Config{MinVersion: version, MaxVersion: version, ClientAuth: tls.RequestClientCert}
		counted.StartTLS()
	}
	t.Cleanup(counted.Close)
	return counted
}

func newProxy(t *testing.T, address string) *fault.Proxy {
	t.Helper()
	proxy, err := fault.New(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Errorf("close proxy: %v", err)
		}
	})
	return proxy
}

func set(t *testing.T, proxy *fault.Proxy, mode fault.Mode) {
	t.Helper()
	if err := proxy.Set(mode); err != nil {
		t.Fatalf("set mode %s: %v", mode, err)
	}
}

// call posts "hello" through the proxy on a fresh connection.
func (c *target) call(proxy *fault.Proxy) (string, error) {
	transport := c.Client().Transport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	scheme, _, _ := strings.Cut(c.URL, "://")
	response, err := (&http.Client{Transport: transport}).Post(scheme+"://"+proxy.Address(), "text/plain", strings.NewReader("hello"))
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

func TestProxyModes(t *testing.T) {
	for name, version := range map[string]uint16{"plain HTTP": 0, "TLS 1.2": tls.VersionTLS12, "TLS 1.3": tls.VersionTLS13} {
		t.Run(name, func(t *testing.T) {
			target := newTarget(t, version)
			proxy := newProxy(t, target.Listener.Addr().String())
			pass := func() {
				t.Helper()
				set(t, proxy, fault.Pass)
				if got, err := target.call(proxy); err != nil || got != "HELLO" {
					t.Fatalf("pass: got %q, %v", got, err)
				}
			}
			pass()

			set(t, proxy, fault.Refuse)
			if _, err := target.call(proxy); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("refuse: got %v, want connection refused", err)
			}
			pass()

			set(t, proxy, fault.Cut)
			before := target.effects.Load()
			if _, err := target.call(proxy); err == nil {
				t.Error("cut: the call succeeded")
			}
			if got := target.effects.Load(); got != before {
				t.Errorf("cut: %d requests reached the target", got-before)
			}
			pass()

			set(t, proxy, fault.Swallow)
			before = target.effects.Load()
			if got, err := target.call(proxy); err == nil {
				t.Errorf("swallow: the reply %q arrived", got)
			}
			if got := target.effects.Load(); got != before+1 {
				t.Errorf("swallow: %d requests reached the target, want 1", got-before)
			}
			if got := proxy.Swallowed(); got < 1 {
				t.Error("swallow: no lost answer was counted")
			}
			pass()
		})
	}
}

func TestStalledBytesPassWhenTheModeChanges(t *testing.T) {
	target := newTarget(t, tls.VersionTLS13)
	proxy := newProxy(t, target.Listener.Addr().String())
	set(t, proxy, fault.Stall)
	type reply struct {
		body string
		err  error
	}
	done := make(chan reply, 1)
	go func() {
		body, err := target.call(proxy)
		done <- reply{body, err}
	}()
	await(t, "the connection is accepted", func() bool { return proxy.Accepted() == 1 })
	if got := target.effects.Load(); got != 0 {
		t.Fatalf("%d requests passed a stalled proxy", got)
	}
	set(t, proxy, fault.Pass)
	if got := <-done; got.err != nil || got.body != "HELLO" {
		t.Errorf("after the stall: got %q, %v", got.body, got.err)
	}
}

func TestCutReachesOpenConnections(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = echo.Close() })
	go func() {
		for {
			conn, err := echo.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, conn) }()
		}
	}()
	proxy := newProxy(t, echo.Addr().String())
	conn, err := net.Dial("tcp", proxy.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	buffer := make([]byte, 1)
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(buffer); err != nil {
		t.Fatal(err)
	}
	set(t, proxy, fault.Cut)
	if _, err := conn.Read(buffer); err == nil {
		t.Error("an open connection survived the cut")
	}
}

func TestCloseEndsAStalledProxy(t *testing.T) {
	target := newTarget(t, 0)
	proxy, err := fault.New(target.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	set(t, proxy, fault.Stall)
	failed := make(chan error, 1)
	go func() {
		_, err := target.call(proxy)
		failed <- err
	}()
	await(t, "the connection is accepted", func() bool { return proxy.Accepted() == 1 })
	if err := proxy.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("the call succeeded through a closed proxy")
	}
	if err := proxy.Set(fault.Pass); !errors.Is(err, net.ErrClosed) {
		t.Errorf("set after close: got %v", err)
	}
}

func TestRetargetMovesFurtherConnections(t *testing.T) {
	first, second := newTarget(t, 0), newTarget(t, 0)
	proxy := newProxy(t, first.Listener.Addr().String())
	proxy.Retarget(second.Listener.Addr().String())
	if _, err := second.call(proxy); err != nil {
		t.Fatal(err)
	}
	if first.effects.Load() != 0 || second.effects.Load() != 1 {
		t.Errorf("got %d and %d requests, want 0 and 1", first.effects.Load(), second.effects.Load())
	}
}

// await polls until the condition holds; the test's own deadline is the limit.
func await(t *testing.T, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-t.Context().Done():
			t.Fatalf("waiting until %s: the test ended", what)
		case <-tick.C:
		}
	}
}
