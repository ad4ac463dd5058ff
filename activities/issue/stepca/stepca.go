// Package stepca is the issuer that speaks to a smallstep step-ca, remote or embedded.
//
// Certificates are signed with one-time tokens of a JWK provisioner: each attempt makes a fresh token,
// bound to the one CSR, so repeating after a lost reply is safe and gives a second certificate with
// another serial. Rekeying goes over mutual TLS with the current certificate. Revocation is by token,
// and shows in the CRL if the CA has one (step-ca: crl.enabled, and generateOnRevoke to see it at
// once).
//
// What step-ca cannot do, and this package does not pretend: it has no listing of certificates and no
// OCSP; /rekey keeps the names and the lifetime of the current certificate whatever the CSR says, so
// [Issuer.Rekey] refuses requests that want something else; it accepts the revocation of serials that
// it never issued, so whoever proves a revocation compares the CRL's issuer with the certificate's.
//
// Errors are classified here and nowhere else; see classify.go.
package stepca

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/issue"
)

// Kind is the name under which the configuration asks for this issuer.
const Kind = "step-ca"

var (
	_ issue.Issuer           = (*Issuer)(nil)
	_ issue.Rekeyer          = (*Issuer)(nil)
	_ issue.RevocationLister = (*Issuer)(nil)
)

// Issuer signs, rekeys and revokes at one step-ca. It is safe for concurrent use. The root and password
// files are read when they are needed, so they may be replaced while it is in use.
type Issuer struct {
	config Config
	base   *url.URL
	now    func() time.Time

	mu    sync.Mutex
	key   *provisionerKey // decrypted once, because decrypting is slow on purpose
	ahead time.Duration   // how far the CA's clock is ahead of ours
}

// New returns an issuer for a configuration that passed Check. It reads the files, to fail early, and
// does not connect.
func New(config Config, now func() time.Time) (*Issuer, error) {
	var problems []string
	config.Check(func(field, value, want string) {
		problems = append(problems, fmt.Sprintf("%s %q: want %s", field, value, want))
	})
	if len(problems) > 0 {
		return nil, activities.Errorf(activities.Invalid, "configure step-ca issuer: %s", strings.Join(problems, "; "))
	}
	base, err := url.Parse(config.URL)
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "configure step-ca issuer: url is not an address")
	}
	issuer := &Issuer{config: config, base: base, now: now}
	if _, err := issuer.anchors(); err != nil {
		return nil, err
	}
	if _, err := issuer.password(); err != nil {
		return nil, err
	}
	return issuer, nil
}

// Issue signs the request with a fresh one-time token. The caller may repeat it with the same CSR.
func (s *Issuer) Issue(ctx context.Context, request issue.Request) (issue.Certificate, error) {
	const act = "sign certificate"
	names, err := namesOf(act, request.CSR)
	if err != nil {
		return issue.Certificate{}, err
	}
	body := map[string]string{"csr": encodeCSR(request.CSR)}
	if request.Lifetime > 0 {
		body["notAfter"] = request.Lifetime.String() // counted from the CA's own clock
	}
	got, err := s.withToken(ctx, claims{
		Subject:      names.subject,
		Names:        names.all,
		Confirmation: &confirmation{Fingerprint: digest(request.CSR.Raw)},
	}, call{act: act, path: "/1.0/sign"}, body)
	if err != nil {
		return issue.Certificate{}, err
	}
	return s.certificate(act, got, request.CSR)
}

// Rekey replaces the current certificate by one over the CSR's key. step-ca copies names and lifetime
// from the current certificate; a request that wants others is Invalid, and a certificate that has
// expired or was revoked is Denied: both are for Issue.
func (s *Issuer) Rekey(ctx context.Context, current tls.Certificate, request issue.Request) (issue.Certificate, error) {
	const act = "rekey certificate"
	leaf, err := currentLeaf(current)
	if err != nil {
		return issue.Certificate{}, activities.Errorf(activities.Invalid, "%s: current certificate: %w", act, err)
	}
	if err := s.rekeyable(act, leaf, request); err != nil {
		return issue.Certificate{}, err
	}
	got, err := s.post(ctx, call{act: act, path: "/1.0/rekey", present: &current}, map[string]string{"csr": encodeCSR(request.CSR)})
	if err != nil {
		return issue.Certificate{}, err
	}
	return s.certificate(act, got, request.CSR)
}

// Revoke revokes by token. Revoking a revoked certificate succeeds. The CA remembers the revocation
// before it renews its CRL, so the CRL is the proof, not this method's success.
func (s *Issuer) Revoke(ctx context.Context, revocation issue.Revocation) error {
	const act = "revoke certificate"
	if revocation.Certificate == nil {
		return activities.Errorf(activities.Invalid, "%s: no certificate given", act)
	}
	if revocation.Reason < 0 || revocation.Reason > 10 || revocation.Reason == 7 {
		return activities.Errorf(activities.Invalid, "%s: reason %d is not an RFC 5280 CRLReason", act, revocation.Reason)
	}
	serial := revocation.Certificate.SerialNumber.String()
	_, err := s.withToken(ctx, claims{Subject: serial}, call{act: act + " " + serial, path: "/1.0/revoke"}, map[string]any{
		"serial":     serial,
		"reasonCode": revocation.Reason,
		"reason":     revocation.Sentence,
		"passive":    true, // the only way that step-ca implements; the CRL works all the same
	})
	if alreadyRevoked(err) {
		return nil
	}
	return err
}

// Roots returns the certificates in the root file.
func (s *Issuer) Roots(context.Context) ([]*x509.Certificate, error) { return s.anchors() }

// RevocationList returns the CA's current CRL. It is NotFound if the CA publishes none.
func (s *Issuer) RevocationList(ctx context.Context) (*x509.RevocationList, error) {
	const act = "read revocation list"
	got, err := s.do(ctx, call{act: act, method: http.MethodGet, path: "/1.0/crl", limit: maxList}, nil)
	if err != nil {
		return nil, err
	}
	list, err := x509.ParseRevocationList(got.body)
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "%s at %s: %w", act, s.base.Host, err)
	}
	return list, nil
}

// anchors reads the root file and holds it against the configured fingerprint.
func (s *Issuer) anchors() ([]*x509.Certificate, error) {
	content, err := os.ReadFile(s.config.Root)
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "read step-ca root: %w", err)
	}
	roots, err := parseCertificates(content)
	if err != nil || len(roots) == 0 {
		return nil, activities.Errorf(activities.Invalid, "read step-ca root: %q holds no PEM certificate", s.config.Root)
	}
	want := plainHex(s.config.RootFingerprint)
	if want == "" {
		return roots, nil
	}
	for _, root := range roots {
		if fingerprint(root) == want {
			return []*x509.Certificate{root}, nil
		}
	}
	return nil, activities.Errorf(activities.Invalid, "read step-ca root: no certificate in %q has the fingerprint %s", s.config.Root, want)
}

func parseCertificates(content []byte) ([]*x509.Certificate, error) {
	var certificates []*x509.Certificate
	for {
		var block *pem.Block
		if block, content = pem.Decode(content); block == nil {
			return certificates, nil
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certificates = append(certificates, certificate)
	}
}

func encodeCSR(csr *x509.CertificateRequest) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: csr.Raw}))
}

// post sends a JSON body whose effect counts: a lost reply is Uncertain.
func (s *Issuer) post(ctx context.Context, c call, body any) (reply, error) {
	encoded, err := json.Marshal(body)
	if err != nil {
		return reply{}, activities.Errorf(activities.Invalid, "%s: encode request: %w", c.act, err)
	}
	c.method, c.effect = http.MethodPost, true
	return s.do(ctx, c, encoded)
}
