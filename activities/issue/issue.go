// Package issue is the contract of certificate issuers. A vendor is a folder below; all pass the
// issuer conformance suite in testsuite/conformance.
package issue

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"time"
)

// Request asks for a certificate over a key that the caller holds. The CSR names the subject and the
// subject alternative names; nothing secret is in it.
type Request struct {
	CSR      *x509.CertificateRequest
	Lifetime time.Duration // zero: the issuer's default
}

// Certificate is what an issuer returned: the leaf first, then the intermediates to serve with it.
type Certificate struct {
	Chain []*x509.Certificate
}

// Leaf returns the end-entity certificate.
func (c Certificate) Leaf() *x509.Certificate { return c.Chain[0] }

// Revocation asks the issuer to revoke one certificate.
type Revocation struct {
	Certificate *x509.Certificate
	Reason      int    // RFC 5280 section 5.3.1 CRLReason, such as 1 keyCompromise or 4 superseded
	Sentence    string // for the issuer's own log
}

// Issuer signs certificates. Errors carry a kind of package activities; a lost reply after the
// request was sent is Uncertain, and the caller signs the same CSR again: the certificate that got
// lost is recorded as issued-not-received.
type Issuer interface {
	// Issue signs the request.
	Issue(ctx context.Context, request Request) (Certificate, error)
	// Revoke revokes a certificate. Revoking a revoked certificate succeeds.
	Revoke(ctx context.Context, revocation Revocation) error
	// Roots returns the trust anchors that the issuer's certificates chain to.
	Roots(ctx context.Context) ([]*x509.Certificate, error)
}

// Rekeyer is an issuer that replaces a certificate over the connection that the certificate itself
// authenticates (step-ca: POST /rekey). The caller falls back to Issue when the current certificate
// has expired.
type Rekeyer interface {
	Rekey(ctx context.Context, current tls.Certificate, request Request) (Certificate, error)
}

// RevocationLister is an issuer that publishes a CRL (RFC 5280).
type RevocationLister interface {
	RevocationList(ctx context.Context) (*x509.RevocationList, error)
}
