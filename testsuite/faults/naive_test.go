package faults

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
)

// naive is a CA for the negative controls.
type naive struct {
	root *x509.Certificate
	key  *ecdsa.PrivateKey
	next int64
}

func newNaive(t *testing.T) *naive {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "naive"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &naive{root: root, key: key, next: 2}
}

// pair issues a certificate and returns certificate and key as PEM.
func (n *naive) pair(t *testing.T) (certificate, key []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	n.next++
	template := &x509.Certificate{SerialNumber: big.NewInt(n.next), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, n.root, private.Public(), n.key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text})
}

// TestNaiveRotationIsCaught is the negative control: a rotation that writes certificate and key one after
// the other, and goes back to the first pair afterwards, must be caught by the same probe.
func TestNaiveRotationIsCaught(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	authority, dir := newNaive(t), t.TempDir()
	write := func(name string, text []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	certificate, key := authority.pair(t)
	write("tls.crt", certificate)
	write("tls.key", key)
	consumer, err := newServer(func() (tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key"))
		if err != nil {
			return tls.Certificate{}, nil // serves what it could not load, as a careless server does
		}
		return pair, nil
	}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.close()
	roots := x509.NewCertPool()
	roots.AddCert(authority.root)
	p := startProbe(ctx, consumer.address(), roots)
	seen := func(n int) {
		before, _, _ := p.read()
		wait(t, ctx, "the probe looks", func() bool { now, _, _ := p.read(); return now >= before+n })
	}
	seen(3)
	next, nextKey := authority.pair(t)
	write("tls.crt", next) // the key still belongs to the other certificate
	seen(3)
	write("tls.key", nextKey)
	seen(3)
	write("tls.key", key)
	write("tls.crt", certificate) // a late step restores the older value
	seen(3)
	caught := strings.Join(p.judge(), "\n")
	for _, invariant := range []string{"I1", "I3"} {
		if !strings.Contains(caught, invariant) {
			t.Errorf("the naive rotation breaks %s, and the harness did not notice: %s", invariant, caught)
		}
	}
}

// TestCarelessEvidenceIsCaught is the negative control of what is read from the ledger.
func TestCarelessEvidenceIsCaught(t *testing.T) {
	entry := func(step string, phase record.Phase, epoch activities.Epoch, facts map[string]string) line {
		return line{Entry: record.Entry{Step: step, Phase: phase, Epoch: epoch, Rotation: activities.NewRotationID("t", epoch), Facts: facts}}
	}
	converged := entry("rotate.converge/converged", record.Fact, 2, map[string]string{record.FactState: string(activities.Converged)})
	open := entry("rotate.open", record.Fact, 2, nil)
	retire := entry("rotate.retire", record.Intent, 2, nil)
	for sentence, c := range map[string]struct {
		lines []line
		want  string
	}{
		"a good rotation":             {[]line{open, converged, retire}, ""},
		"a second candidate":          {[]line{open, entry("rotate.mint", record.Outcome, 2, map[string]string{record.FactKeyID: "a"}), entry("rotate.set", record.Outcome, 2, map[string]string{record.FactKeyID: "b"})}, "second candidate"},
		"a retirement without proof":  {[]line{open, retire, converged}, "I6"},
		"an epoch that is used again": {[]line{open, converged, retire, open}, "I3"},
		"a proof of another rotation": {[]line{open, entry("rotate.converge/converged", record.Fact, 1, converged.Entry.Facts), retire}, "I6"},
	} {
		t.Run(sentence, func(t *testing.T) {
			got := strings.Join(judge(c.lines), "\n")
			if (c.want == "") != (got == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
