package conformance

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/issue"
	"castellan.dev/testsuite/fault"
)

// CRLReasons of RFC 5280 section 5.3.1 that the suite uses.
const (
	keyCompromise = 1
	superseded    = 4
)

type keyAlgorithm string

const (
	p256       keyAlgorithm = "ECDSA P-256"
	p384       keyAlgorithm = "ECDSA P-384"
	ed25519Key keyAlgorithm = "Ed25519"
	rsa2048    keyAlgorithm = "RSA 2048"
)

func (a keyAlgorithm) generate() (crypto.Signer, error) {
	switch a {
	case p384:
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case ed25519Key:
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	case rsa2048:
		return rsa.GenerateKey(rand.Reader, 2048)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func oneName() x509.CertificateRequest {
	return x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "service.castellan.test"},
		DNSNames: []string{"service.castellan.test"},
	}
}

func everyName() x509.CertificateRequest {
	return x509.CertificateRequest{
		DNSNames:       []string{"every.castellan.test", "*.every.castellan.test"},
		IPAddresses:    []net.IP{net.IPv4(127, 0, 0, 1), net.ParseIP("2001:db8::1")},
		URIs:           []*url.URL{{Scheme: "spiffe", Host: "castellan.test", Path: "/every"}},
		EmailAddresses: []string{"every@castellan.test"},
	}
}

func nameless() x509.CertificateRequest { return x509.CertificateRequest{} }

// newCSR makes a key and a request over it.
func newCSR(algorithm keyAlgorithm, template x509.CertificateRequest) (*x509.CertificateRequest, crypto.Signer, error) {
	key, err := algorithm.generate()
	if err != nil {
		return nil, nil, err
	}
	raw, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		return nil, nil, err
	}
	csr, err := x509.ParseCertificateRequest(raw)
	return csr, key, err
}

// issued returns a certificate in use and the request it came from.
func (f IssuerFixture) issued(ctx context.Context) (*x509.CertificateRequest, tls.Certificate, error) {
	csr, key, err := newCSR(p256, oneName())
	if err != nil {
		return nil, tls.Certificate{}, err
	}
	got, err := f.Issuer.Issue(ctx, issue.Request{CSR: csr})
	if err != nil {
		return nil, tls.Certificate{}, f.unexpected("issue", err)
	}
	current := tls.Certificate{PrivateKey: key, Leaf: got.Leaf()}
	for _, certificate := range got.Chain {
		current.Certificate = append(current.Certificate, certificate.Raw)
	}
	return csr, current, nil
}

// lose makes the CA's reply to one act vanish. The act must say that it does not know, and succeed when
// it is repeated.
func (f IssuerFixture) lose(ctx context.Context, act func() error) error {
	// An issuer may ask for other things before it acts. It has asked now.
	if _, _, err := f.issued(ctx); err != nil {
		return err
	}
	if err := f.Proxy.Set(fault.Swallow); err != nil {
		return err
	}
	before := f.Proxy.Swallowed()
	if err := f.wantKind("first attempt", act(), activities.Uncertain); err != nil {
		return err
	}
	if f.Proxy.Swallowed() == before {
		return errors.New("no reply was lost: the check is void")
	}
	if err := f.Proxy.Set(fault.Pass); err != nil {
		return err
	}
	if err := act(); err != nil {
		return f.unexpected("second attempt", err)
	}
	return nil
}

// verifyIssued checks key, names and path of a certificate.
func verifyIssued(got issue.Certificate, csr *x509.CertificateRequest, roots []*x509.Certificate) error {
	if len(got.Chain) == 0 {
		return errors.New("the chain is empty")
	}
	leaf := got.Leaf()
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(csr.PublicKey) {
		return errors.New("the leaf is over another key than the request's")
	}
	if have, want := allNames(leaf.DNSNames, leaf.EmailAddresses, leaf.IPAddresses, leaf.URIs),
		allNames(csr.DNSNames, csr.EmailAddresses, csr.IPAddresses, csr.URIs); !slices.Equal(have, want) {
		return fmt.Errorf("the leaf has the names %q, want %q", have, want)
	}
	anchors, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, root := range roots {
		anchors.AddCert(root)
	}
	for _, certificate := range got.Chain[1:] {
		intermediates.AddCert(certificate)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		options := x509.VerifyOptions{Roots: anchors, Intermediates: intermediates, KeyUsages: []x509.ExtKeyUsage{use}}
		if _, err := leaf.Verify(options); err != nil {
			return fmt.Errorf("verify the leaf against the issuer's roots: %w", err)
		}
	}
	return nil
}

func allNames(dns, emails []string, ips []net.IP, uris []*url.URL) []string {
	all := slices.Concat(dns, emails)
	for _, ip := range ips {
		all = append(all, ip.String())
	}
	for _, uri := range uris {
		all = append(all, uri.String())
	}
	slices.Sort(all)
	return all
}

// wantKind checks that an act failed in one of the ways it may, and that the error keeps every secret.
func (f IssuerFixture) wantKind(act string, err error, kinds ...activities.Kind) error {
	if err == nil {
		return fmt.Errorf("%s succeeded, want an error of kind %v", act, kinds)
	}
	if leak := f.leak(err); leak != nil {
		return fmt.Errorf("%s: %w", act, leak)
	}
	var own *activities.Error
	if !errors.As(err, &own) {
		return fmt.Errorf("%s: the error has no kind: %w", act, err)
	}
	if !slices.Contains(kinds, own.Kind) {
		return fmt.Errorf("%s: got kind %q, want one of %v: %w", act, own.Kind, kinds, err)
	}
	return nil
}

// unexpected reports an error that should not be, unless it must not be shown.
func (f IssuerFixture) unexpected(act string, err error) error {
	if leak := f.leak(err); leak != nil {
		return fmt.Errorf("%s: %w", act, leak)
	}
	return fmt.Errorf("%s: %w", act, err)
}

// leak reports a secret or a signed token in the error, without repeating it.
func (f IssuerFixture) leak(err error) error {
	text := fmt.Sprintf("%+v %#v", err, err)
	for i, secret := range f.Secrets {
		for _, form := range []string{
			secret, url.QueryEscape(secret), hex.EncodeToString([]byte(secret)),
			base64.StdEncoding.EncodeToString([]byte(secret)), base64.RawURLEncoding.EncodeToString([]byte(secret)),
		} {
			if strings.Contains(text, form) {
				return fmt.Errorf("the error holds secret number %d", i+1)
			}
		}
	}
	if strings.Contains(text, "eyJ") && strings.Count(text, ".") >= 2 { // how every JWT begins
		return errors.New("the error holds what looks like a token")
	}
	return nil
}

// issuerUntil polls a condition; the context is the limit.
func issuerUntil(ctx context.Context, condition func() bool) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}
