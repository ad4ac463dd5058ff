package rotation

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// manner is how a server takes a certificate that is not the one it serves.
type manner int

const (
	reloads   manner = iota // uses it from the next connection on
	straggles               // keeps the one it has
	breaks                  // cannot work with it: every connection is cut
)

// server is a TLS server that reads the pair below a delivery's current link and answers one byte.
type server struct {
	listener net.Listener
	pair     string

	mu     sync.Mutex
	manner manner
	serves *tls.Certificate
}

func newServer(t testing.TB, served string) *server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{listener: listener, pair: filepath.Join(served, "current")}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			open.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(func() {
		listener.Close()
		open.Wait()
	})
	return s
}

func (s *server) serve(conn net.Conn) {
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	secured := tls.Server(conn, &tls.Config{MinVersion: tls.VersionTLS13, SessionTicketsDisabled: true, GetCertificate: s.certificate})
	if secured.HandshakeContext(context.Background()) != nil {
		return
	}
	_, _ = secured.Write([]byte("!"))
	_, _ = secured.Read(make([]byte, 1))
}

// certificate reads the pair for every connection; the link is resolved once, so that both files are of
// one generation.
func (s *server) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	generation, err := filepath.EvalSymlinks(s.pair)
	if err != nil {
		return nil, err
	}
	found, err := tls.LoadX509KeyPair(filepath.Join(generation, "tls.crt"), filepath.Join(generation, "tls.key"))
	if err != nil {
		return nil, err
	}
	if s.serves == nil || s.manner == reloads || fingerprint(found) == fingerprint(*s.serves) {
		s.serves = &found
		return s.serves, nil
	}
	if s.manner == breaks {
		return nil, errors.New("this server cannot work with the certificate")
	}
	return s.serves, nil
}

func (s *server) become(m manner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.manner = m
}

func (s *server) address() string { return s.listener.Addr().String() }

func fingerprint(pair tls.Certificate) string {
	sum := sha256.Sum256(pair.Certificate[0])
	return hex.EncodeToString(sum[:])
}

// shown returns the fingerprint that a client sees at an address.
func shown(address string) (string, error) {
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return "", fmt.Errorf("dial %s: %w", address, err)
	}
	defer conn.Close()
	sum := sha256.Sum256(conn.ConnectionState().PeerCertificates[0].Raw)
	return hex.EncodeToString(sum[:]), nil
}
