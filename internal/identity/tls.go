package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// protocols are what a server offers: gRPC speaks only the first, browsers and probes both.
var protocols = []string{"h2", "http/1.1"}

// TLSServer returns a configuration for listeners: TLS 1.3, a verified client certificate of the
// same CA required, no resumption (a resumed connection would skip the look at the certificate).
// When clients are named, only these identities may connect.
func (s *Source) TLSServer(clients ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		SessionTicketsDisabled: true,
		NextProtos:             protocols,
		// Should a copy lose GetConfigForClient, these still refuse everyone.
		ClientAuth: tls.RequireAndVerifyClientCert,
		ClientCAs:  x509.NewCertPool(),
		Time:       s.config.Now,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			m, err := s.use(hello.Context())
			if err != nil {
				return nil, err
			}
			return &tls.Config{
				MinVersion:             tls.VersionTLS13,
				SessionTicketsDisabled: true,
				NextProtos:             protocols,
				ClientAuth:             tls.RequireAndVerifyClientCert,
				ClientCAs:              m.roots,
				Certificates:           []tls.Certificate{m.certificate},
				Time:                   s.config.Now,
				VerifyConnection: func(state tls.ConnectionState) error {
					name, err := Peer(&state)
					if err != nil {
						return err
					}
					if len(clients) > 0 && !slices.Contains(clients, name) {
						return fmt.Errorf("accept client: identity %q is not welcome here", name)
					}
					return nil
				},
			}, nil
		},
	}
}

// TLSClient returns a configuration for dialling the identity server: TLS 1.3, own certificate
// shown, no resumption. The peer is known by its identity and not by a host name, so another
// identity of the same CA on the same host cannot stand in for it.
func (s *Source) TLSClient(server string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		Time:       s.config.Now,
		// The standard verification works with roots fixed here and now; verifyServer does the same
		// with the roots of the moment, and checks the identity besides.
		InsecureSkipVerify: true,
		VerifyConnection:   func(state tls.ConnectionState) error { return s.verifyServer(state, server) },
		GetClientCertificate: func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			m, err := s.use(info.Context())
			if err != nil {
				return nil, err
			}
			return &m.certificate, nil
		},
	}
}

func (s *Source) verifyServer(state tls.ConnectionState, server string) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("verify server: it showed no certificate")
	}
	m, err := s.use(context.Background())
	if err != nil {
		return fmt.Errorf("verify server: %w", err)
	}
	intermediates := x509.NewCertPool()
	for _, certificate := range state.PeerCertificates[1:] {
		intermediates.AddCert(certificate)
	}
	leaf := state.PeerCertificates[0]
	if _, err = leaf.Verify(x509.VerifyOptions{
		Roots:         m.roots,
		Intermediates: intermediates,
		CurrentTime:   s.config.Now(),
		KeyUsages:     []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}); err != nil {
		return fmt.Errorf("verify server: %w", err)
	}
	name, err := nameOf(leaf)
	if err != nil {
		return fmt.Errorf("verify server: %w", err)
	}
	if name != server {
		return fmt.Errorf("verify server: it is identity %q, want %q", name, server)
	}
	return nil
}
