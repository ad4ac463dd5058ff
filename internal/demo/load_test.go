package demo

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// load runs a load until it has counted so many probes.
func load(t *testing.T, probe Probe, probes int) Count {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l := NewLoad(time.Millisecond, probe)
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	err := until(ctx, time.Millisecond, func() (bool, error) { return l.Count().Probes >= probes, nil })
	cancel()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	return l.Count()
}

func TestEveryFailureOfAServerIsCounted(t *testing.T) {
	var requests, refused, connections atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if requests.Add(1)%4 == 0 {
			refused.Add(1)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		w.Write([]byte("payments-1 ok\n"))
	}))
	server.TLS = &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if connections.Add(1)%5 == 0 {
			refused.Add(1)
			return nil, errors.New("no certificate")
		}
		return nil, nil
	}}
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	defer server.Close()
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	config := &tls.Config{RootCAs: roots, ServerName: "example.com"}
	got := load(t, func(ctx context.Context) error { return ask(ctx, server.Listener.Addr().String(), config, "payments") }, 40)
	if int64(got.Failed) != refused.Load() || got.Failed < 8 || got.Failure == "" {
		t.Errorf("got %d failures, first %q, want %d", got.Failed, got.Failure, refused.Load())
	}
	if int64(got.Probes) != connections.Load() {
		t.Errorf("got %d connections, want a fresh one for each of %d probes", connections.Load(), got.Probes)
	}
}

func TestAServerThatAnswersIsNoFailure(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Write([]byte("payments-1 ok\n")) }))
	defer server.Close()
	roots := server.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	config := &tls.Config{RootCAs: roots, ServerName: "example.com"}
	got := load(t, func(ctx context.Context) error { return ask(ctx, server.Listener.Addr().String(), config, "payments") }, 40)
	if got.Failed != 0 {
		t.Errorf("got %d failures, first %q, want none", got.Failed, got.Failure)
	}
	wrong := ask(t.Context(), server.Listener.Addr().String(), config, "orders")
	if wrong == nil || !strings.Contains(wrong.Error(), "payments-1 ok") {
		t.Errorf("another service answers: got %v, want an error with its answer", wrong)
	}
}

func TestAnOutageIsAGap(t *testing.T) {
	var probes atomic.Int64
	broken := make(chan time.Time, 1)
	outage := 100 * time.Millisecond
	got := load(t, func(context.Context) error {
		if probes.Add(1) == 10 {
			broken <- time.Now()
		}
		select {
		case began := <-broken:
			if time.Since(began) < outage {
				broken <- began
				return errors.New("down")
			}
		default:
		}
		return nil
	}, 200)
	if got.Longest < outage/2 || got.Failed == 0 {
		t.Errorf("got a gap of %s and %d failures, want an outage of %s seen", got.Longest, got.Failed, outage)
	}
}

func TestTheProbesUnderWayAreNotCutShortByTheEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun, release := make(chan struct{}, maxUnderWay), make(chan struct{})
	l := NewLoad(time.Millisecond, func(ctx context.Context) error {
		begun <- struct{}{}
		<-release
		return ctx.Err()
	})
	done := make(chan struct{})
	go func() { defer close(done); l.Run(ctx) }()
	<-begun
	cancel()
	close(release)
	<-done
	if got := l.Count(); got.Failed != 0 || got.Probes == 0 {
		t.Errorf("got %+v, want probes and no failure", got)
	}
}
