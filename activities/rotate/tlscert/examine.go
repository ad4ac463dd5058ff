package tlscert

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/rotate"
)

// Test proves the candidate before any consumer sees it: the key matches, the chain builds to the
// anchors that clients hold today, the names cover what is configured, the usage fits, and it is
// valid now and for long enough to be worth publishing.
func (k *Kind) Test(ctx context.Context, rotation rotate.Rotation) (activities.Proof, error) {
	certificate, err := k.resolve(rotation.Target)
	if err != nil {
		return activities.Proof{}, err
	}
	pair, err := k.pair(ctx, rotation.Target, rotation.Epoch)
	if err != nil {
		return activities.Proof{}, err
	}
	roots, err := certificate.anchors(ctx)
	if err != nil {
		return activities.Proof{}, err
	}
	if err := certificate.examine(pair, roots, k.now()); err != nil {
		return activities.Proof{}, err
	}
	sentence := fmt.Sprintf("key matches, chain builds to the clients' bundle, %d names covered, valid until %s",
		len(certificate.DNSNames)+len(certificate.IPAddresses)+len(certificate.URIs), pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	return activities.Proof{At: k.now().UTC(), Sentence: sentence}, nil
}

// anchors returns the roots that clients hold today.
func (c Certificate) anchors(ctx context.Context) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	if c.Bundle != nil {
		text, err := c.Bundle()
		if err != nil {
			return nil, activities.Errorf(activities.Transient, "certificate %q: read the clients' bundle: %w", c.Name, err)
		}
		if !pool.AppendCertsFromPEM(text) {
			return nil, activities.Errorf(activities.Invalid, "certificate %q: the clients' bundle holds no certificate", c.Name)
		}
		return pool, nil
	}
	roots, err := c.Issuer.Roots(ctx)
	if err != nil {
		return nil, err
	}
	for _, root := range roots {
		pool.AddCert(root)
	}
	return pool, nil
}

// examine checks one key pair against the configuration. Every finding is activities.Failed.
func (c Certificate) examine(pair tls.Certificate, roots *x509.CertPool, now time.Time) error {
	leaf := pair.Leaf
	fail := func(format string, args ...any) error {
		return activities.Errorf(activities.Failed, "candidate for %q: %s", c.Name, fmt.Sprintf(format, args...))
	}
	if want := c.Algorithm; want != "" && AlgorithmOf(leaf.PublicKey) != want {
		return fail("key is %s, want %s", AlgorithmOf(leaf.PublicKey), want)
	}
	for _, name := range c.DNSNames {
		if err := leaf.VerifyHostname(name); err != nil && !slices.Contains(leaf.DNSNames, name) {
			return fail("name %q is missing", name)
		}
	}
	for _, text := range c.IPAddresses {
		if !slices.ContainsFunc(leaf.IPAddresses, net.ParseIP(text).Equal) {
			return fail("address %q is missing", text)
		}
	}
	for _, text := range c.URIs {
		if !slices.ContainsFunc(leaf.URIs, func(u *url.URL) bool { return u.String() == text }) {
			return fail("URI name %q is missing", text)
		}
	}
	intermediates := x509.NewCertPool()
	for _, der := range pair.Certificate[1:] {
		if certificate, err := x509.ParseCertificate(der); err == nil {
			intermediates.AddCert(certificate)
		}
	}
	for _, usage := range c.usages() {
		options := x509.VerifyOptions{Roots: roots, Intermediates: intermediates, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}}
		if _, err := leaf.Verify(options); err != nil {
			return fail("%v", err)
		}
	}
	return nil
}

func (c Certificate) usages() []x509.ExtKeyUsage {
	switch c.Usage {
	case "server":
		return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	case "client":
		return []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	}
	return []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
}
