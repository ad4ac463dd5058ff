package faults

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// server is a consumer: a TLS server that loads its certificate when told to, or at every handshake.
type server struct {
	listener net.Listener
	load     func() (tls.Certificate, error)
	hot      bool // load at every handshake

	mu     sync.Mutex
	pair   *tls.Certificate
	liked  *tls.Certificate
	frozen atomic.Bool // a consumer that does not reload
	picky  atomic.Bool // a consumer that breaks with any certificate but the one it has
}

// newServer starts a consumer that reads a generation directory or a combined file.
func newServer(load func() (tls.Certificate, error), hot bool) (*server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &server{listener: listener, load: load, hot: hot}
	config := &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if s.hot {
			s.reload()
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.pair == nil {
			return nil, errors.New("no certificate yet")
		}
		return s.pair, nil
	}}
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer connection.Close()
				secured := tls.Server(connection, config)
				secured.SetDeadline(time.Now().Add(3 * time.Second))
				if secured.Handshake() == nil {
					secured.Write([]byte("."))
					secured.Read(make([]byte, 1))
				}
			}()
		}
	}()
	return s, nil
}

// reload reads the certificate again unless the consumer is one that does not.
func (s *server) reload() {
	if s.frozen.Load() {
		return
	}
	pair, err := s.load()
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.picky.Load() {
		if s.liked == nil {
			s.liked = s.pair
		}
		if string(s.liked.Certificate[0]) != string(pair.Certificate[0]) {
			s.pair = nil
			return
		}
	}
	s.pair = &pair
}

func (s *server) address() string { return s.listener.Addr().String() }

func (s *server) close() { s.listener.Close() }

// generation loads certificate and key from one generation: the link is resolved once.
func generation(directory string) func() (tls.Certificate, error) {
	return func() (tls.Certificate, error) {
		current, err := filepath.EvalSymlinks(filepath.Join(directory, "current"))
		if err != nil {
			return tls.Certificate{}, err
		}
		return tls.LoadX509KeyPair(filepath.Join(current, "tls.crt"), filepath.Join(current, "tls.key"))
	}
}

// combined loads certificate and key from one read of one file.
func combined(path string) func() (tls.Certificate, error) {
	return func() (tls.Certificate, error) {
		text, err := os.ReadFile(path)
		if err != nil {
			return tls.Certificate{}, err
		}
		return tls.X509KeyPair(text, text)
	}
}

// probe opens a fresh connection every 30 ms, verifies the chain against the clients' bundle, and reads
// one byte. It is instrument A: a single failed sample breaks invariant I1.
type probe struct {
	mu       sync.Mutex
	samples  int
	failures []string
	served   []string // fingerprints in the order in which they were first seen, repeats included
}

func startProbe(ctx context.Context, address string, roots *x509.CertPool) *probe {
	p := new(probe)
	config := &tls.Config{RootCAs: roots, ServerName: "localhost", MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true}
	go func() {
		ticker := time.NewTicker(30 * time.Millisecond)
		defer ticker.Stop()
		for {
			fingerprint, err := sample(ctx, address, config)
			if ctx.Err() != nil {
				return
			}
			p.note(fingerprint, err)
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	}()
	return p
}

func sample(ctx context.Context, address string, config *tls.Config) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	dialer := tls.Dialer{Config: config}
	connection, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	deadline, _ := ctx.Deadline()
	connection.SetDeadline(deadline)
	if _, err := connection.Read(make([]byte, 1)); err != nil {
		return "", err
	}
	sum := sha256.Sum256(connection.(*tls.Conn).ConnectionState().PeerCertificates[0].Raw)
	return hex.EncodeToString(sum[:]), nil
}

func (p *probe) note(fingerprint string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.samples++
	if err != nil {
		p.failures = append(p.failures, fmt.Sprintf("sample %d: %v", p.samples, err))
		return
	}
	if n := len(p.served); n == 0 || p.served[n-1] != fingerprint {
		p.served = append(p.served, fingerprint)
	}
}

func (p *probe) read() (samples int, failures, served []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.samples, append([]string(nil), p.failures...), append([]string(nil), p.served...)
}
