package demo

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
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

// issuer signs what the services of a test use.
type issuer struct {
	key     *ecdsa.PrivateKey
	root    *x509.Certificate
	revoked []x509.RevocationListEntry
	serial  int64
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{serial: 1}
	i.root, i.key = i.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: []byte{1},
	})
	return i
}

func (i *issuer) sign(t *testing.T, template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i.serial++
	template.SerialNumber = big.NewInt(i.serial)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(time.Hour)
	parent, signer := i.root, i.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return certificate, key
}

// leaf returns a certificate that servers and clients may use.
func (i *issuer) leaf(t *testing.T) tls.Certificate {
	t.Helper()
	certificate, key := i.sign(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, DNSNames: []string{"payments.internal"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
	return tls.Certificate{Certificate: [][]byte{certificate.Raw}, PrivateKey: key, Leaf: certificate}
}

// deliver puts a certificate where a service reads it, as a generation behind the link.
func (i *issuer) deliver(t *testing.T, dir, generation string) tls.Certificate {
	t.Helper()
	pair := i.leaf(t)
	der, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(dir, generation), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"tls.crt": {Type: "CERTIFICATE", Bytes: pair.Certificate[0]}, "tls.key": {Type: "PRIVATE KEY", Bytes: der},
		"ca.crt": {Type: "CERTIFICATE", Bytes: i.root.Raw},
	} {
		if err := os.WriteFile(filepath.Join(dir, generation, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(generation, filepath.Join(dir, "next")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "next"), filepath.Join(dir, "current")); err != nil {
		t.Fatal(err)
	}
	return pair
}

// pool returns the root that clients trust.
func (i *issuer) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(i.root)
	return pool
}

// service runs a service until the test ends.
func service(t *testing.T, config ServiceConfig) string {
	t.Helper()
	config.Listen, config.Logger = "127.0.0.1:0", slog.New(slog.DiscardHandler)
	s, err := NewService(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s.Address()
}

func TestARevokedClientIsRefusedAndItsSuccessorAccepted(t *testing.T) {
	authority, dir := newIssuer(t), t.TempDir()
	authority.deliver(t, dir, "1")
	list := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		template := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now(), NextUpdate: time.Now().Add(time.Hour), RevokedCertificateEntries: authority.revoked}
		der, err := x509.CreateRevocationList(rand.Reader, template, authority.root, authority.key)
		if err != nil {
			t.Error(err)
		}
		w.Write(der)
	}))
	defer list.Close()
	previous, current := authority.leaf(t), authority.leaf(t)
	authority.revoked = []x509.RevocationListEntry{{SerialNumber: previous.Leaf.SerialNumber, RevocationTime: time.Now()}}
	address := service(t, ServiceConfig{Name: "payments", Pair: filepath.Join(dir, "current"), Clients: true, CRL: list.URL})
	visit := func(pairs ...tls.Certificate) error {
		return ask(t.Context(), address, &tls.Config{RootCAs: authority.pool(), ServerName: "payments.internal", Certificates: pairs}, "payments")
	}
	if err := visit(previous); err == nil {
		t.Error("the revoked certificate is accepted")
	}
	if err := visit(current); err != nil {
		t.Errorf("the other certificate: got %v, want it accepted", err)
	}
	if err := visit(); err == nil {
		t.Error("a client without a certificate is accepted")
	}
	unlisted := service(t, ServiceConfig{Name: "payments", Pair: filepath.Join(dir, "current"), Clients: true, CRL: "https://127.0.0.1:1/none"})
	address = unlisted
	if err := visit(current); err == nil {
		t.Error("without any list a client is accepted")
	}
}

func TestAReplicaThatReloadsLateServesThePreviousOnlyForAWhile(t *testing.T) {
	authority, prompt, late := newIssuer(t), t.TempDir(), t.TempDir()
	serves := func(address string) string {
		connection, err := tls.Dial("tcp", address, &tls.Config{RootCAs: authority.pool(), ServerName: "payments.internal"})
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		return connection.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	one := service(t, ServiceConfig{Name: "payments-1", Pair: filepath.Join(prompt, "current")})
	two := service(t, ServiceConfig{Name: "payments-2", Pair: filepath.Join(late, "current"), Lag: 200 * time.Millisecond})
	authority.deliver(t, prompt, "1")
	first := authority.deliver(t, late, "1").Leaf.SerialNumber.String()
	if got := serves(two); got != first {
		t.Errorf("the first certificate: got %s, want %s at once", got, first)
	}
	serves(one)
	if want, got := authority.deliver(t, prompt, "2").Leaf.SerialNumber.String(), serves(one); got != want {
		t.Errorf("the prompt replica: got %s, want %s", got, want)
	}
	second := authority.deliver(t, late, "2").Leaf.SerialNumber.String()
	if got := serves(two); got != first {
		t.Errorf("right after the change: got %s, want the previous %s", got, first)
	}
	err := until(t.Context(), 10*time.Millisecond, func() (bool, error) { return serves(two) == second, nil })
	if err != nil {
		t.Error(err)
	}
}

func TestRequestsArePassedOnToEveryReplicaInTurn(t *testing.T) {
	authority, dir := newIssuer(t), t.TempDir()
	authority.deliver(t, dir, "1")
	pair := filepath.Join(dir, "current")
	one := service(t, ServiceConfig{Name: "payments-1", Pair: pair, Clients: true})
	two := service(t, ServiceConfig{Name: "payments-2", Pair: pair, Clients: true})
	orders := service(t, ServiceConfig{Name: "orders", Pair: pair, Upstream: []string{one, two}})
	config := &tls.Config{RootCAs: authority.pool(), ServerName: "payments.internal"}
	seen := map[string]int{}
	for range 4 {
		err := ask(t.Context(), orders, config, "nobody")
		if err == nil {
			t.Fatal("nobody answers")
		}
		for _, name := range []string{"payments-1", "payments-2"} {
			if strings.Contains(err.Error(), "status 200: "+name) {
				seen[name]++
			}
		}
	}
	if seen["payments-1"] != 2 || seen["payments-2"] != 2 {
		t.Errorf("got %v, want both replicas twice", seen)
	}
}
