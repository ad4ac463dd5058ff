package refusal

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pki is a throw-away CA.
type pki struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
	next int64
}

func newPKI(t *testing.T) *pki {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test root"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &pki{root: root, key: key, file: file, next: 2}
}

func (p *pki) issue(t *testing.T, notAfter time.Time) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p.next++
	template := &x509.Certificate{SerialNumber: big.NewInt(p.next), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: notAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, p.root, key.Public(), p.key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// server demands client certificates of the CA and refuses what revoked says.
func (p *pki) server(t *testing.T, revoked func(*x509.Certificate) bool) string {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(p.root)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.TLS = &tls.Config{
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, Certificates: []tls.Certificate{p.issue(t, time.Now().Add(time.Hour))},
		VerifyConnection: func(state tls.ConnectionState) error {
			if revoked(state.PeerCertificates[0]) {
				return errors.New("revoked")
			}
			return nil
		},
	}
	server.Config.ErrorLog = nil
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String()
}

func TestRefused(t *testing.T) {
	authority := newPKI(t)
	later := time.Now().Add(time.Hour)
	previous, sibling, expired := authority.issue(t, later), authority.issue(t, later), authority.issue(t, time.Now().Add(-time.Minute))
	is := func(certificate tls.Certificate) func(*x509.Certificate) bool {
		return func(leaf *x509.Certificate) bool { return leaf.Equal(certificate.Leaf) }
	}
	for sentence, c := range map[string]struct {
		revoked  func(*x509.Certificate) bool
		previous tls.Certificate
		proven   bool
		says     string
		fails    bool
	}{
		"a server that refuses only the previous proves it": {is(previous), previous, true, "refuses the previous", false},
		"a server that checks no revocation proves nothing": {func(*x509.Certificate) bool { return false }, previous, false, "still accepts", false},
		"a server that refuses everybody proves nothing":    {func(*x509.Certificate) bool { return true }, previous, false, "", true},
		"an expired previous is refused for another reason": {is(expired), expired, false, "expired by itself", false},
	} {
		t.Run(sentence, func(t *testing.T) {
			probe := New(Config{Address: authority.server(t, c.revoked), Roots: authority.file}, time.Now)
			proven, says, err := probe.Refused(context.Background(), c.previous, sibling)
			if proven != c.proven || !strings.Contains(says, c.says) || (err != nil) != c.fails {
				t.Errorf("got %v, %q, %v; want %v, %q, failure %v", proven, says, err, c.proven, c.says, c.fails)
			}
		})
	}
}
