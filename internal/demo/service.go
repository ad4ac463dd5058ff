// Package demo holds the two services whose certificates `castellan-dev demo` rotates, the load that
// runs against them, and the show itself. The services are ordinary TLS servers that know nothing of
// castellan: they read a directory and reload when it changes.
package demo

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// ServiceConfig says how one service runs.
type ServiceConfig struct {
	Name     string
	Listen   string
	Listener net.Listener  // instead of Listen
	Pair     string        // directory with tls.crt, tls.key and ca.crt: the `current` link of a delivery
	Clients  bool          // demand client certificates
	CRL      string        // URL of the revocation list that client certificates are checked against; empty: none
	Upstream []string      // host:port of the replicas of the service that each request calls one of; empty: none
	Lag      time.Duration // how long a changed certificate is ignored: a consumer that does not reload at once
	Logger   *slog.Logger
}

// Service is a running service.
type Service struct {
	config   ServiceConfig
	pair     *reloading
	listener net.Listener
	server   *http.Server
	crl      *revocations
	turn     atomic.Uint64 // whose turn it is among the replicas upstream
}

// NewService prepares a service; the certificate may not be there yet.
func NewService(config ServiceConfig) (*Service, error) {
	listener := config.Listener
	if listener == nil {
		var err error
		if listener, err = net.Listen("tcp", config.Listen); err != nil {
			return nil, fmt.Errorf("%s: listen: %w", config.Name, err)
		}
	}
	s := &Service{config: config, listener: listener, pair: &reloading{dir: config.Pair, lag: config.Lag}}
	if config.CRL != "" {
		s.crl = &revocations{url: config.CRL}
	}
	s.server = &http.Server{
		Handler: http.HandlerFunc(s.answer), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second,
		ErrorLog: slog.NewLogLogger(config.Logger.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// Address returns host:port.
func (s *Service) Address() string { return s.listener.Addr().String() }

// Run serves until the context ends.
func (s *Service) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.server.Close() })
	defer stop()
	config := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, GetConfigForClient: s.configFor}
	err := s.server.Serve(tls.NewListener(s.listener, config))
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// configFor reads the certificate anew for every connection, and checks clients in VerifyConnection,
// which also runs where a session is resumed.
func (s *Service) configFor(*tls.ClientHelloInfo) (*tls.Config, error) {
	pair, roots, err := s.pair.load()
	if err != nil {
		return nil, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}
	if !s.config.Clients {
		return config, nil
	}
	config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, roots
	config.VerifyConnection = func(state tls.ConnectionState) error {
		if s.crl == nil {
			return nil
		}
		return s.crl.check(state.PeerCertificates[0], state.VerifiedChains[0][1])
	}
	return config, nil
}

// answer calls upstream, if there is one, over a fresh mutual TLS connection.
func (s *Service) answer(w http.ResponseWriter, r *http.Request) {
	if len(s.config.Upstream) == 0 {
		fmt.Fprintf(w, "%s ok\n", s.config.Name)
		return
	}
	pair, roots, err := s.pair.load()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	client := Client(pair, roots)
	defer client.CloseIdleConnections()
	replica := s.config.Upstream[s.turn.Add(1)%uint64(len(s.config.Upstream))]
	request, err := http.NewRequestWithContext(r.Context(), http.MethodGet, "https://"+replica+"/", nil)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	response, err := client.Do(request)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer response.Body.Close()
	w.WriteHeader(response.StatusCode)
	io.Copy(w, io.LimitReader(response.Body, 1<<10))
}

// Client makes one fresh connection per request: no keep-alive, no resumption, no retry.
func Client(pair tls.Certificate, roots *x509.CertPool) *http.Client {
	config := &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, SessionTicketsDisabled: true}
	if pair.Certificate != nil {
		config.Certificates = []tls.Certificate{pair}
	}
	return &http.Client{
		Timeout:   10 * time.Second,
		Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, ForceAttemptHTTP2: false},
	}
}

// reloading is a certificate that is read again when its directory's link changes.
type reloading struct {
	dir string
	lag time.Duration

	mu      sync.Mutex
	target  string
	changed time.Time
	pair    tls.Certificate
	roots   *x509.CertPool
}

// load returns the current pair. The link is resolved once, so that certificate and key come from the
// same generation even while it is being replaced.
func (r *reloading) load() (tls.Certificate, *x509.CertPool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	target, err := filepath.EvalSymlinks(r.dir)
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	if target == r.target {
		r.changed = time.Time{}
		return r.pair, r.roots, nil
	}
	if r.target != "" && r.lag > 0 {
		if r.changed.IsZero() {
			r.changed = time.Now()
		}
		if time.Since(r.changed) < r.lag {
			return r.pair, r.roots, nil
		}
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(target, "tls.crt"), filepath.Join(target, "tls.key"))
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	bundle, err := os.ReadFile(filepath.Join(target, "ca.crt"))
	if err != nil {
		return tls.Certificate{}, nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(bundle) {
		return tls.Certificate{}, nil, errors.New("the bundle holds no certificate")
	}
	r.target, r.pair, r.roots, r.changed = target, pair, roots, time.Time{}
	return pair, roots, nil
}

// revocations checks certificates against an issuer's list, fetched anew twice a second at most.
type revocations struct {
	url string

	mu      sync.Mutex
	fetched time.Time
	list    *x509.RevocationList
}

// check refuses a revoked certificate, and every certificate while no list can be had: default closed.
func (r *revocations) check(leaf, issuer *x509.Certificate) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.list == nil || time.Since(r.fetched) > 500*time.Millisecond {
		list, err := r.fetch(issuer)
		if err != nil && r.list == nil {
			return fmt.Errorf("no revocation list: %w", err)
		}
		if err == nil {
			r.list = list
		}
		r.fetched = time.Now() // also after a failure: the next handshake must not wait for the next one
	}
	for _, entry := range r.list.RevokedCertificateEntries {
		if entry.SerialNumber.Cmp(leaf.SerialNumber) == 0 {
			return fmt.Errorf("certificate %s is revoked", leaf.SerialNumber)
		}
	}
	return nil
}

// fetch reads the list and checks that the issuer signed it; what the transport could add, it need not.
func (r *revocations) fetch(issuer *x509.Certificate) (*x509.RevocationList, error) {
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	response, err := client.Get(r.url)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	if err != nil {
		return nil, err
	}
	list, err := x509.ParseRevocationList(text)
	if err != nil {
		return nil, err
	}
	return list, list.CheckSignatureFrom(issuer)
}
