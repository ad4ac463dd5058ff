package conformance

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"math/big"
	"net"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
)

// Authority is a certificate authority for tests, made in memory.
type Authority struct {
	Certificate *x509.Certificate
	key         crypto.Signer
}

// Issued is a certificate of an Authority with its key.
type Issued struct {
	Chain       []byte // PEM, leaf first
	Key         []byte // PEM, PKCS #8
	Fingerprint string
	Pair        tls.Certificate
}

// NewAuthority makes a root of its own.
func NewAuthority(t testing.TB, name string) *Authority {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatalf("make root: %v", err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatalf("parse root: %v", err)
	}
	return &Authority{Certificate: certificate, key: key}
}

// Bundle returns the root as PEM.
func (a *Authority) Bundle() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.Certificate.Raw})
}

// Pool returns the root as a pool.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.Certificate)
	return pool
}

// Issue signs a new leaf for a service of this host, usable by servers and clients. Changes alter the
// template before it is signed.
func (a *Authority) Issue(t testing.TB, name string, changes ...func(*x509.Certificate)) Issued {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: serial(t), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
		NotBefore:   time.Now().Add(-time.Hour), NotAfter: time.Now().Add(12 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	for _, change := range changes {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.Certificate, key.Public(), a.key)
	if err != nil {
		t.Fatalf("sign %q: %v", name, err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatalf("encode key: %v", err)
	}
	sum := sha256.Sum256(der)
	issued := Issued{
		Chain:       pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encoded}),
		Fingerprint: hex.EncodeToString(sum[:]),
	}
	if issued.Pair, err = tls.X509KeyPair(issued.Chain, issued.Key); err != nil {
		t.Fatalf("pair %q: %v", name, err)
	}
	return issued
}

// Material returns a new leaf of the authority as what a rotation of that epoch delivers.
func (a *Authority) Material(t testing.TB, epoch activities.Epoch, changes ...func(*x509.Certificate)) deliver.Material {
	t.Helper()
	issued := a.Issue(t, "service.test", changes...)
	return deliver.Material{
		Rotation: activities.NewRotationID("service", epoch), Epoch: epoch, Fingerprint: issued.Fingerprint,
		Chain: issued.Chain, Key: issued.Key, Bundle: a.Bundle(), NotAfter: issued.Pair.Leaf.NotAfter,
	}
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatalf("make key: %v", err)
	}
	return key
}

func serial(t testing.TB) *big.Int {
	t.Helper()
	number, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatalf("make serial: %v", err)
	}
	return number
}
