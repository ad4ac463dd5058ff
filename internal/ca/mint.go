package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"time"

	"go.step.sm/crypto/jose"
	"go.step.sm/crypto/pemutil"
)

const (
	rootYears         = 20
	intermediateYears = 10
	backdate          = time.Hour // a leaf is backdated by a minute and must not begin before its issuers
)

// fill writes all files of a fresh authority into dir.
func fill(config Config, dir string) error {
	files := files{dir: dir}
	password, err := config.password()
	if err != nil {
		return err
	}
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	intermediateKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := config.Now().UTC()
	rootTemplate := template(config.Name+" root "+tag(&rootKey.PublicKey), now, rootYears)
	rootTemplate.MaxPathLen = 1
	root, err := sign(rootTemplate, rootTemplate, &rootKey.PublicKey, rootKey)
	if err != nil {
		return err
	}
	intermediateTemplate := template(config.Name+" intermediate "+tag(&intermediateKey.PublicKey), now, intermediateYears)
	intermediateTemplate.MaxPathLenZero = true
	intermediate, err := sign(intermediateTemplate, root, &intermediateKey.PublicKey, rootKey)
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return writeCertificate(files.rootCertificate(), root) },
		func() error { return writeKey(files.rootKey(), rootKey, password) },
		func() error { return writeCertificate(files.intermediateCertificate(), intermediate) },
		func() error { return writeKey(files.intermediateKey(), intermediateKey, password) },
		func() error { return fillProvisioner(files) },
		func() error { return syncDir(dir) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func fillProvisioner(files files) error {
	password := newPassword()
	if err := write(files.provisionerPassword(), password); err != nil {
		return err
	}
	key, err := jose.GenerateJWK("EC", "P-256", jose.ES256, "sig", "", 0)
	if err != nil {
		return err
	}
	if key.KeyID, err = jose.Thumbprint(key); err != nil {
		return err
	}
	compact, err := seal(key, password)
	if err != nil {
		return err
	}
	public := key.Public()
	content, err := json.MarshalIndent(provisionerKey{Key: &public, EncryptedKey: compact}, "", "  ")
	if err != nil {
		return err
	}
	return write(files.provisioner(), content)
}

// seal encrypts a provisioner's key the way step-ca does, but for the number of rounds: the password is
// 256 random bits, which nobody guesses, and stretching it would only make every client slow.
func seal(key *jose.JSONWebKey, password []byte) (string, error) {
	const rounds = 4096
	content, err := json.Marshal(key)
	if err != nil {
		return "", err
	}
	salt := make([]byte, 16)
	_, _ = rand.Read(salt)
	encrypter, err := jose.NewEncrypter(jose.DefaultEncAlgorithm,
		jose.Recipient{Algorithm: jose.PBES2_HS256_A128KW, Key: password, PBES2Count: rounds, PBES2Salt: salt},
		(&jose.EncrypterOptions{}).WithContentType("jwk+json"))
	if err != nil {
		return "", err
	}
	sealed, err := encrypter.Encrypt(content)
	if err != nil {
		return "", err
	}
	return sealed.CompactSerialize()
}

func template(name string, now time.Time, years int) *x509.Certificate {
	serial := make([]byte, 16)
	_, _ = rand.Read(serial)
	serial[0] &= 0x7f
	return &x509.Certificate{
		SerialNumber:          new(big.Int).SetBytes(serial),
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-backdate).Truncate(time.Second),
		NotAfter:              now.AddDate(years, 0, 0).Truncate(time.Second),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
}

// tag tells authorities of the same name apart where several roots are trusted.
func tag(public *ecdsa.PublicKey) string {
	encoded, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "unknown"
	}
	sum := sha256.Sum256(encoded)
	return hex.EncodeToString(sum[:4])
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) (*x509.Certificate, error) {
	raw, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(raw)
}

func writeCertificate(path string, certificate *x509.Certificate) error {
	return writePEM(path, &pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
}

func writeKey(path string, key crypto.Signer, password []byte) error {
	var options []pemutil.Options
	if password != nil {
		options = append(options, pemutil.WithPassword(password))
	}
	block, err := pemutil.Serialize(key, options...)
	if err != nil {
		return err
	}
	return writePEM(path, block)
}
