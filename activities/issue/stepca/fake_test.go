package stepca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"castellan.dev/activities/issue/stepca"
)

const (
	fakePassword    = "open-sesame-7f3a9c"
	fakeProvisioner = "operations"
)

// fakeCA speaks step-ca's wire format and answers as a test wants. Listing provisioners works unless a
// handler says otherwise.
type fakeCA struct {
	*httptest.Server
	mu       sync.Mutex
	handlers map[string]http.HandlerFunc
	seen     []seen
	jwe      string
	keyID    string
}

// seen is a request that reached the fake.
type seen struct {
	path string
	body map[string]any
}

func newFakeCA(t *testing.T) *fakeCA {
	t.Helper()
	fake := &fakeCA{handlers: map[string]http.HandlerFunc{}, keyID: "fake-key"}
	fake.jwe = fake.encryptedKey(t)
	fake.Server = httptest.NewTLSServer(fake)
	t.Cleanup(fake.Close)
	return fake
}

func (f *fakeCA) encryptedKey(t *testing.T) string {
	t.Helper()
	private := generate(t)
	encoded, err := json.Marshal(jose.JSONWebKey{Key: private, KeyID: f.keyID, Algorithm: "ES256", Use: "sig"})
	if err != nil {
		t.Fatal(err)
	}
	encrypter, err := jose.NewEncrypter(jose.A256GCM,
		jose.Recipient{Algorithm: jose.PBES2_HS256_A128KW, Key: []byte(fakePassword), PBES2Count: 1000}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := encrypter.Encrypt(encoded)
	if err != nil {
		t.Fatal(err)
	}
	compact, err := sealed.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return compact
}

func (f *fakeCA) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	request := seen{path: r.URL.Path}
	_ = json.Unmarshal(raw, &request.body)
	f.mu.Lock()
	f.seen = append(f.seen, request)
	handler := f.handlers[r.URL.Path]
	f.mu.Unlock()
	switch {
	case handler != nil:
		handler(w, r)
	case r.URL.Path == "/1.0/provisioners":
		_ = json.NewEncoder(w).Encode(map[string]any{"provisioners": []map[string]any{
			{"type": "ACME", "name": "acme"},
			{"type": "JWK", "name": fakeProvisioner, "key": map[string]string{"kid": f.keyID}, "encryptedKey": f.jwe},
		}})
	default:
		http.NotFound(w, r)
	}
}

// on sets the answer to a path.
func (f *fakeCA) on(path string, handler http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handlers[path] = handler
}

// requests returns what reached a path.
func (f *fakeCA) requests(path string) []seen {
	f.mu.Lock()
	defer f.mu.Unlock()
	var found []seen
	for _, request := range f.seen {
		if request.path == path {
			found = append(found, request)
		}
	}
	return found
}

func (f *fakeCA) config(t *testing.T) stepca.Config {
	t.Helper()
	root := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.Certificate().Raw})
	return stepca.Config{
		URL:          f.URL,
		Root:         file(t, "root.crt", string(root)),
		Provisioner:  fakeProvisioner,
		PasswordFile: file(t, "password", fakePassword+"\n"),
	}
}

// signer is a small CA for answers that step-ca itself would never give.
type signer struct {
	root, intermediate *x509.Certificate
	key                crypto.Signer
}

func newSigner(t *testing.T, intermediateEnds time.Time) signer {
	t.Helper()
	rootKey, key := generate(t), generate(t)
	far := time.Now().Add(1000 * time.Hour)
	root := sign(t, authorityTemplate("fake root", far), nil, rootKey.Public(), rootKey)
	return signer{root: root, key: key, intermediate: sign(t, authorityTemplate("fake intermediate", intermediateEnds), root, key.Public(), rootKey)}
}

func authorityTemplate(name string, ends time.Time) *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: ends,
		KeyUsage: x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
	}
}

func (s signer) leaf(t *testing.T, public crypto.PublicKey, ends time.Time, names ...string) *x509.Certificate {
	t.Helper()
	return sign(t, &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), DNSNames: names,
		NotBefore: time.Now().Add(-time.Minute), NotAfter: ends,
	}, s.intermediate, public, s.key)
}

// answer is what step-ca sends for a signature.
func answer(chain ...*x509.Certificate) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		var encoded []string
		for _, certificate := range chain {
			encoded = append(encoded, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})))
		}
		w.WriteHeader(http.StatusCreated)
		_ = json.NewEncoder(w).Encode(map[string]any{"certChain": encoded})
	}
}

func sign(t *testing.T, template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	if parent == nil {
		parent = template
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func generate(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newCSR(t *testing.T, key crypto.Signer, names ...string) *x509.CertificateRequest {
	t.Helper()
	raw, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: names}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(raw)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}
