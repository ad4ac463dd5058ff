// Package refusal asks a server that demands client certificates whether it still accepts a revoked one.
//
// Two fresh connections are made one right after the other: with the previous certificate and with its
// sibling, the candidate. Both come from the same issuer and carry the same names, so when only the
// previous is refused, and it has not expired, revocation is what is left as the reason. A handshake
// that succeeds proves nothing under TLS 1.3, because the server judges the client's certificate after
// the client is done: an answer to a request has to be read.
package refusal

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"castellan.dev/activities"
)

// Probe asks one peer.
type Probe struct {
	config Config
	now    func() time.Time
}

// New returns a probe of the configured peer.
func New(config Config, now func() time.Time) *Probe {
	if config.ServerName == "" {
		config.ServerName, _, _ = net.SplitHostPort(config.Address)
	}
	if config.Path == "" {
		config.Path = "/"
	}
	if config.Timeout == 0 {
		config.Timeout = 5 * time.Second
	}
	return &Probe{config: config, now: now}
}

// Refused reports whether the peer is proven to refuse the previous certificate. An error means that
// nothing could be learned: the peer does not even accept the sibling, or is away.
func (p *Probe) Refused(ctx context.Context, previous, sibling tls.Certificate) (bool, string, error) {
	if leaf, err := x509.ParseCertificate(previous.Certificate[0]); err != nil || !leaf.NotAfter.After(p.now()) {
		return false, "the previous certificate has expired by itself, so a refusal says nothing about revocation", nil
	}
	refused := p.ask(ctx, previous)
	if accepted := p.ask(ctx, sibling); accepted != nil {
		return false, "", activities.Errorf(activities.Transient, "ask %s: it does not accept the candidate either: %w", p.config.Address, accepted)
	}
	if refused == nil {
		return false, p.config.Address + " still accepts the previous certificate", nil
	}
	return true, fmt.Sprintf("%s refuses the previous (%v) and accepts the candidate", p.config.Address, refused), nil
}

// ask makes one fresh connection and one request; nil means that the peer answered.
func (p *Probe) ask(ctx context.Context, certificate tls.Certificate) error {
	ctx, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	text, err := os.ReadFile(p.config.Roots)
	if err != nil {
		return fmt.Errorf("read roots: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("read roots: %s holds no certificate", p.config.Roots)
	}
	dialer := tls.Dialer{Config: &tls.Config{
		ServerName: p.config.ServerName, RootCAs: roots, Certificates: []tls.Certificate{certificate},
		MinVersion: tls.VersionTLS12, SessionTicketsDisabled: true, Time: p.now, NextProtos: []string{"http/1.1"},
	}}
	connection, err := dialer.DialContext(ctx, "tcp", p.config.Address)
	if err != nil {
		return err
	}
	defer connection.Close()
	deadline, _ := ctx.Deadline()
	if err := connection.SetDeadline(deadline); err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+p.config.ServerName+p.config.Path, nil)
	if err != nil {
		return err
	}
	request.Close = true
	if err := request.Write(connection); err != nil {
		return err
	}
	response, err := http.ReadResponse(bufio.NewReader(connection), request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode == http.StatusBadRequest || response.StatusCode == http.StatusForbidden || response.StatusCode == 495 {
		// nginx completes the handshake and answers 400 (495 internally) to a certificate that it refuses.
		return fmt.Errorf("status %s", response.Status)
	}
	return nil
}
