package tlsprobe_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"castellan.dev/testsuite/conformance"
)

// server is a TLS server whose certificate, demands and manners a test decides.
type server struct {
	Address string

	before func(net.Conn) error // speaks the prelude
	after  func(*tls.Conn)      // speaks after the handshake; default: reads until the client leaves

	mutex    sync.Mutex
	leaves   []conformance.Issued // used in turn
	next     int
	clients  *x509.CertPool // demanded, when not nil
	revoked  []string       // serial numbers refused in VerifyConnection
	resumed  int
	accepted int
	names    []string // asked for by SNI
	protocol []string
	listener net.Listener
}

// listen starts a server on a loopback address.
func listen(t *testing.T, host string, change func(*server)) *server {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Address: listener.Addr().String(), listener: listener}
	s.after = func(conn *tls.Conn) { _, _ = io.Copy(io.Discard, conn) }
	if change != nil {
		change(s)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				s.serve(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return s
}

func (s *server) serve(conn net.Conn) {
	s.mutex.Lock()
	s.accepted++
	s.mutex.Unlock()
	if s.before != nil && s.before(conn) != nil {
		return
	}
	secured := tls.Server(conn, s.config())
	if secured.Handshake() != nil {
		return
	}
	s.mutex.Lock()
	state := secured.ConnectionState()
	if state.DidResume {
		s.resumed++
	}
	s.names = append(s.names, state.ServerName)
	s.protocol = append(s.protocol, state.NegotiatedProtocol)
	s.mutex.Unlock()
	s.after(secured)
}

func (s *server) config() *tls.Config {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	config := &tls.Config{
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{"h2", "http/1.1", "postgresql"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			s.mutex.Lock()
			defer s.mutex.Unlock()
			leaf := s.leaves[s.next%len(s.leaves)]
			s.next++
			return &leaf.Pair, nil
		},
	}
	if s.clients != nil {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, s.clients
		revoked := s.revoked
		config.VerifyConnection = func(state tls.ConnectionState) error {
			if slices.Contains(revoked, state.PeerCertificates[0].SerialNumber.String()) {
				return errors.New("revoked")
			}
			return nil
		}
	}
	return config
}

// use makes the server use the certificates in turn.
func (s *server) use(leaves ...conformance.Issued) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	s.leaves, s.next = leaves, 0
}

func (s *server) stop() { _ = s.listener.Close() }

// with runs f on the server's state.
func (s *server) with(f func()) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	f()
}

// write makes a file in a directory of the test's own.
func write(t *testing.T, name string, text []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
