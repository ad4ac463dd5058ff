package stepca

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/issue"
)

// names are the subject alternative names of a request, as tokens spell them.
type names struct {
	subject string   // the common name, or the first of all
	all     []string // sorted
}

func namesOf(act string, csr *x509.CertificateRequest) (names, error) {
	if csr == nil {
		return names{}, activities.Errorf(activities.Invalid, "%s: no request given", act)
	}
	all := collect(csr.DNSNames, csr.EmailAddresses, addresses(csr.IPAddresses), addresses(csr.URIs))
	if len(all) == 0 {
		return names{}, activities.Errorf(activities.Invalid, "%s: the request has no subject alternative name", act)
	}
	subject := csr.Subject.CommonName
	if subject == "" {
		subject = all[0]
	}
	slices.Sort(all)
	return names{subject: subject, all: all}, nil
}

func leafNames(leaf *x509.Certificate) []string {
	all := collect(leaf.DNSNames, leaf.EmailAddresses, addresses(leaf.IPAddresses), addresses(leaf.URIs))
	slices.Sort(all)
	return all
}

func collect(groups ...[]string) []string { return slices.Concat(groups...) }

func addresses[T interface{ String() string }](values []T) []string {
	texts := make([]string, len(values))
	for i, value := range values {
		texts[i] = value.String()
	}
	return texts
}

// certificate reads the reply to a signature and checks that it answers the request. What does not is
// Failed: the CA is at fault, or something between us and the CA.
func (s *Issuer) certificate(act string, got reply, csr *x509.CertificateRequest) (issue.Certificate, error) {
	chain, err := decodeChain(got.body)
	if err != nil {
		return issue.Certificate{}, s.unreadable(call{act: act, effect: true}, "%v", err)
	}
	anchors, err := s.anchors()
	if err != nil {
		return issue.Certificate{}, err
	}
	if err := answers(chain, csr, anchors); err != nil {
		return issue.Certificate{}, activities.Errorf(activities.Failed, "%s at %s: check serial %s: %w",
			act, s.base.Host, chain[0].SerialNumber, err)
	}
	return issue.Certificate{Chain: chain}, nil
}

func decodeChain(body []byte) ([]*x509.Certificate, error) {
	var answer struct {
		Leaf   string   `json:"crt"`
		Issuer string   `json:"ca"`
		Chain  []string `json:"certChain"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return nil, errors.New("not JSON")
	}
	if len(answer.Chain) == 0 {
		answer.Chain = []string{answer.Leaf, answer.Issuer}
	}
	var chain []*x509.Certificate
	for _, encoded := range answer.Chain {
		certificates, err := parseCertificates([]byte(encoded))
		if err != nil {
			return nil, err
		}
		chain = append(chain, certificates...)
	}
	if len(chain) == 0 {
		return nil, errors.New("no certificate in it")
	}
	// A root is the verifier's business: serving it only makes handshakes longer.
	leaf, rest := chain[0], slices.DeleteFunc(chain[1:], selfSigned)
	return append([]*x509.Certificate{leaf}, rest...), nil
}

func selfSigned(certificate *x509.Certificate) bool {
	return string(certificate.RawIssuer) == string(certificate.RawSubject)
}

// answers checks a chain against the request: the CSR's key, its names, and a path to an anchor that
// lasts as long as the leaf does.
func answers(chain []*x509.Certificate, csr *x509.CertificateRequest, anchors []*x509.Certificate) error {
	leaf := chain[0]
	public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !public.Equal(csr.PublicKey) {
		return errors.New("it is over another key than the request's")
	}
	asked, err := namesOf("check certificate", csr)
	if err != nil {
		return err
	}
	present := leafNames(leaf)
	for _, name := range asked.all {
		if !slices.Contains(present, name) {
			return errors.New("it lacks the name " + name)
		}
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	for _, anchor := range anchors {
		roots.AddCert(anchor)
	}
	for _, intermediate := range chain[1:] {
		intermediates.AddCert(intermediate)
	}
	// Verified at the leaf's end rather than now: step-ca signs leaves that outlive its intermediate,
	// and those break long before anybody expects it.
	_, err = leaf.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates,
		CurrentTime: leaf.NotAfter.Add(-time.Second),
		KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	})
	return err
}

func fingerprint(certificate *x509.Certificate) string {
	sum := sha256.Sum256(certificate.Raw)
	return hex.EncodeToString(sum[:])
}

func currentLeaf(current tls.Certificate) (*x509.Certificate, error) {
	if current.Leaf != nil {
		return current.Leaf, nil
	}
	if len(current.Certificate) == 0 {
		return nil, errors.New("none given")
	}
	return x509.ParseCertificate(current.Certificate[0])
}

// stepBackdate is by how much step-ca backdates leaves unless it is configured otherwise.
const stepBackdate = time.Minute

// rekeyable refuses what step-ca would silently do differently.
func (s *Issuer) rekeyable(act string, leaf *x509.Certificate, request issue.Request) error {
	asked, err := namesOf(act, request.CSR)
	if err != nil {
		return err
	}
	if present := leafNames(leaf); !slices.Equal(present, asked.all) {
		return activities.Errorf(activities.Invalid, "%s: step-ca keeps the names %q, and the request has %q; issue instead", act, present, asked.all)
	}
	if end := leaf.NotAfter; s.time().After(end) {
		return activities.Errorf(activities.Denied, "%s: the current certificate expired at %s; issue instead", act, end.UTC().Format(time.RFC3339))
	}
	kept := leaf.NotAfter.Sub(leaf.NotBefore)
	const rounding = 2 * time.Second
	if want := request.Lifetime; want > 0 && (kept-want).Abs() > rounding && (kept-stepBackdate-want).Abs() > rounding {
		return activities.Errorf(activities.Invalid, "%s: step-ca keeps the lifetime %s, and the request wants %s; issue instead", act, kept, want)
	}
	return nil
}
