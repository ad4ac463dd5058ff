package conformance

import (
	"context"
	"crypto/x509"
	"testing"
	"time"

	"castellan.dev/activities/issue"
	"castellan.dev/testsuite/fault"
)

// IssuerFixture is one issuer on a real CA, with the connection between them in the suite's hands.
type IssuerFixture struct {
	Issuer  issue.Issuer  // reaches its CA through Proxy and nowhere else
	Foreign issue.Issuer  // the same, with a credential that the CA or the issuer must refuse
	Proxy   *fault.Proxy  // in mode Pass
	Granted time.Duration // a lifetime that the CA grants and that is not its default
	Secrets []string      // what no error may contain: passwords, keys
}

// issuerCheck is one promise of the contract. It returns what is wrong, so that the suite's own test
// can hold it against issuers that break the promise.
type issuerCheck struct {
	promise string
	needs   func(issue.Issuer) bool // nil: every issuer
	check   func(context.Context, IssuerFixture) error
}

// RunIssuer holds an issuer to the contract of package issue. Every promise gets a fixture of its own.
// The promises of Rekeyer and RevocationLister are checked if the issuer claims those abilities.
func RunIssuer(t *testing.T, fixture func(*testing.T) IssuerFixture) {
	t.Helper()
	for _, promise := range issuerChecks() {
		t.Run(promise.promise, func(t *testing.T) {
			f := fixture(t)
			if promise.needs != nil && !promise.needs(f.Issuer) {
				return
			}
			if err := promise.check(t.Context(), f); err != nil {
				t.Error(err)
			}
		})
	}
}

func issuerChecks() []issuerCheck {
	return []issuerCheck{
		{"a leaf is over the request's key and has its names", nil, checkIssue},
		{"every key algorithm of the policy is signed", nil, checkAlgorithms},
		{"the same request twice gives two certificates", nil, checkIssueTwice},
		{"concurrent requests get certificates of their own", nil, checkConcurrent},
		{"the lifetime is honoured", nil, checkLifetime},
		{"a request without names is invalid", nil, checkNameless},
		{"a lost reply is uncertain and a second attempt succeeds", nil, checkLostReply},
		{"a CA that is down is transient", nil, checkDown},
		{"a CA that answers nothing is transient", nil, checkStalled},
		{"a refused credential is denied or invalid", nil, checkForeign},
		{"revoking twice succeeds", nil, checkRevokeTwice},
		{"a lost reply to a revocation is uncertain and a second attempt succeeds", nil, checkLostRevocation},
		{"a revoked certificate is in the revocation list, its sibling is not", lists, checkRevocationList},
		{"a rekeyed certificate has another key and the same names", rekeys, checkRekey},
		{"a lost reply to a rekey is uncertain and a second attempt succeeds", rekeys, checkLostRekey},
		{"rekeying a revoked certificate is denied", rekeys, checkRekeyRevoked},
		{"rekeying refuses names that the current certificate lacks", rekeys, checkRekeyNames},
	}
}

func lists(issuer issue.Issuer) bool {
	_, ok := issuer.(issue.RevocationLister)
	return ok
}

func rekeys(issuer issue.Issuer) bool {
	_, ok := issuer.(issue.Rekeyer)
	return ok
}

// verified checks a certificate against its request and the issuer's roots.
func (f IssuerFixture) verified(ctx context.Context, got issue.Certificate, csr *x509.CertificateRequest) error {
	roots, err := f.Issuer.Roots(ctx)
	if err != nil {
		return f.unexpected("roots", err)
	}
	return verifyIssued(got, csr, roots)
}
