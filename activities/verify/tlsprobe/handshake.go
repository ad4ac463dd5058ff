package tlsprobe

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// stage says how far a connection came.
type stage int

const (
	dialling   stage = iota // no connection
	preluding               // connected; the words before TLS
	handshake               // TLS
	exchanging              // TLS is up; the byte
	exchanged               // everything worked
)

// meeting is what one fresh connection showed.
type meeting struct {
	stage  stage
	serves string // fingerprint of the server's leaf
	asked  bool   // the server asked for a client certificate
	reason error  // why it did not get further
	own    bool   // the reason lies with the prober, not with the consumer
}

// unverified is the reason when the server's certificate does not verify.
type unverified struct{ cause error }

func (u unverified) Error() string { return "does not verify: " + u.cause.Error() }
func (u unverified) Unwrap() error { return u.cause }

// refused reports whether the other side ended the connection by an alert.
func (m meeting) refused() bool {
	var operation *net.OpError
	return errors.As(m.reason, &operation) && operation.Op == "remote error"
}

// judged reports whether the server's judgement of the client's certificate was a refusal: by an alert,
// or by the answer that HTTP servers give.
func (m meeting) judged() bool {
	return m.refused() || errors.As(m.reason, new(statusRefused))
}

// meet opens one connection, shakes hands and exchanges a byte. Presented may be nil.
func (p *prober) meet(ctx context.Context, e endpoint, roots *x509.CertPool, presented *tls.Certificate) meeting {
	bounded, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	m := meeting{stage: dialling}
	plain, err := p.options.Dial(bounded, "tcp", e.address)
	if err != nil {
		return m.fail(ctx, err)
	}
	defer plain.Close()
	// Reads and writes below do not know the context: it closes the connection under them.
	stop := context.AfterFunc(bounded, func() { _ = plain.Close() })
	defer stop()
	m.stage = preluding
	if err := preludes[p.config.Prelude](plain); err != nil {
		return m.fail(ctx, err)
	}
	m.stage = handshake
	secured := tls.Client(plain, p.tlsConfig(e, roots, presented, &m))
	if err := secured.HandshakeContext(bounded); err != nil {
		return m.fail(ctx, err)
	}
	m.stage = exchanging
	if err := p.exchange(secured, e.name); err != nil {
		return m.fail(ctx, err)
	}
	m.stage = exchanged
	return m
}

// fail notes why a meeting ended. When the caller's own time is over, that is the reason.
func (m meeting) fail(ctx context.Context, err error) meeting {
	m.reason = err
	switch {
	case ctx.Err() != nil:
		m.reason, m.own = fmt.Errorf("the probe was cut short: %w", ctx.Err()), true
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EMFILE),
		errors.Is(err, syscall.ENFILE), errors.Is(err, syscall.EADDRNOTAVAIL):
		m.own = true
	case m.stage == dialling && isNameError(err):
		m.own = true
	}
	return m
}

func isNameError(err error) bool {
	var name *net.DNSError
	return errors.As(err, &name)
}

// tlsConfig makes the configuration of one handshake. The standard verification is replaced by the same
// verification in VerifyConnection, because the standard one does not tell whose certificate it refused,
// and who serves what is what a probe is for.
func (p *prober) tlsConfig(e endpoint, roots *x509.CertPool, presented *tls.Certificate, m *meeting) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS12,
		ServerName:             e.name,
		NextProtos:             p.config.ALPN,
		ClientSessionCache:     nil, // a resumed session shows the certificate of an earlier one
		SessionTicketsDisabled: true,
		Time:                   p.options.Now,
		InsecureSkipVerify:     true, //nolint:gosec // verified below
		VerifyConnection: func(state tls.ConnectionState) error {
			leaf := state.PeerCertificates[0]
			m.serves = fingerprint(leaf)
			if err := p.build(state.PeerCertificates, roots, e.name); err != nil {
				return unverified{err}
			}
			return nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			m.asked = true
			if presented == nil {
				return &tls.Certificate{}, nil
			}
			return presented, nil
		},
	}
}

// build builds the chain as a client does that holds the bundle of today.
func (p *prober) build(chain []*x509.Certificate, roots *x509.CertPool, name string) error {
	intermediates := x509.NewCertPool()
	for _, certificate := range chain[1:] {
		intermediates.AddCert(certificate)
	}
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, DNSName: name, CurrentTime: p.options.Now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	return err
}

func fingerprint(leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// describe turns a reason into a sentence for operators.
func describe(m meeting) string {
	var timeout net.Error
	switch {
	case m.reason == nil:
		return ""
	case m.own:
		return m.reason.Error()
	case errors.As(m.reason, new(unverified)), errors.As(m.reason, new(statusRefused)):
		return m.reason.Error()
	case m.refused():
		return "refuses the connection: " + m.reason.Error()
	case errors.Is(m.reason, net.ErrClosed), errors.Is(m.reason, os.ErrDeadlineExceeded),
		errors.Is(m.reason, context.DeadlineExceeded), errors.As(m.reason, &timeout) && timeout.Timeout():
		return map[stage]string{
			dialling:   "does not answer in time",
			preluding:  "accepts the connection but does not answer the prelude in time",
			handshake:  "accepts the connection but does not shake hands in time",
			exchanging: "shakes hands but exchanges no byte in time",
		}[m.stage]
	case errors.Is(m.reason, io.EOF), errors.Is(m.reason, syscall.ECONNRESET), errors.Is(m.reason, syscall.EPIPE):
		return "hangs up " + map[stage]string{
			dialling: "at once", preluding: "during the prelude", handshake: "during the handshake",
			exchanging: "after the handshake, before a byte was exchanged",
		}[m.stage]
	}
	return m.reason.Error()
}
