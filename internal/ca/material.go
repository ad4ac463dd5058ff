package ca

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"go.step.sm/crypto/jose"
	"go.step.sm/crypto/pemutil"
)

// material is everything that makes the authority what it is, read from its files.
type material struct {
	root         *x509.Certificate
	intermediate *x509.Certificate
	password     []byte // of both keys; nil: they are not encrypted
	provisioner  provisionerKey
}

// provisionerKey is the JWK provisioner's key pair as step-ca wants it: the private half encrypted.
type provisionerKey struct {
	Key          *jose.JSONWebKey `json:"key"`
	EncryptedKey string           `json:"encryptedKey"`
}

// load reads the authority's files, making them first if there are none, and checks that they belong
// together and have not expired.
func load(config Config, files files) (material, error) {
	_, err := os.Stat(files.dir)
	if errors.Is(err, fs.ErrNotExist) {
		err = create(config, files)
	}
	if err != nil {
		return material{}, fmt.Errorf("create the embedded CA: %w", err)
	}
	found, err := read(config, files)
	if err != nil {
		return material{}, fmt.Errorf("read the embedded CA: %w", err)
	}
	if err := found.check(config.Now()); err != nil {
		return material{}, fmt.Errorf("start the embedded CA in %q: %w", config.Dir, err)
	}
	return found, nil
}

func read(config Config, files files) (material, error) {
	var found material
	var err error
	if found.root, err = pemutil.ReadCertificate(files.rootCertificate()); err != nil {
		return found, err
	}
	if found.intermediate, err = pemutil.ReadCertificate(files.intermediateCertificate()); err != nil {
		return found, err
	}
	if found.password, err = config.password(); err != nil {
		return found, err
	}
	for _, path := range []string{files.rootKey(), files.intermediateKey(), files.provisionerPassword()} {
		if err := private(path); err != nil {
			return found, err
		}
	}
	key, err := readKey(files.intermediateKey(), config.PasswordFile, found.password)
	if err != nil {
		return found, err
	}
	if !belongs(key, found.intermediate) {
		return found, fmt.Errorf("%q is not the key of %q", files.intermediateKey(), files.intermediateCertificate())
	}
	encoded, err := os.ReadFile(files.provisioner())
	if err != nil {
		return found, err
	}
	if err := json.Unmarshal(encoded, &found.provisioner); err != nil {
		return found, fmt.Errorf("decode %q: %w", files.provisioner(), err)
	}
	return found, nil
}

// check looks at what step-ca itself does not look at when it starts: an authority whose intermediate
// has expired comes up, and every certificate that it issues is refused.
func (m material) check(now time.Time) error {
	for _, certificate := range []struct {
		role string
		*x509.Certificate
		remedy string
	}{
		{"root", m.root, "move the directory away to start with another root, and give that root to every client"},
		{"intermediate", m.intermediate, "have the root sign another intermediate, or move the directory away to start afresh"},
	} {
		if now.After(certificate.NotAfter) {
			return fmt.Errorf("its %s certificate expired at %s; %s",
				certificate.role, certificate.NotAfter.UTC().Format(time.RFC3339), certificate.remedy)
		}
		if now.Before(certificate.NotBefore) {
			return fmt.Errorf("its %s certificate is not valid before %s, and the clock says %s; set the clock",
				certificate.role, certificate.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	if err := m.intermediate.CheckSignatureFrom(m.root); err != nil {
		return fmt.Errorf("its intermediate certificate was not signed by its root: %w", err)
	}
	return nil
}

// password reads the password of the authority's keys; nil means that they are not encrypted.
func (c Config) password() ([]byte, error) {
	path := c.PasswordFile
	if path == "" {
		return nil, nil
	}
	if err := private(path); err != nil {
		return nil, fmt.Errorf("read the password of the CA's keys: %w", err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the password of the CA's keys: %w", err)
	}
	password := bytes.TrimRight(content, "\r\n")
	if len(password) == 0 {
		return nil, fmt.Errorf("read the password of the CA's keys: %q is empty", path)
	}
	return password, nil
}

// readKey reads a private key. It never asks at the terminal, which step-ca's own reader would do when
// a key turns out to be encrypted.
func readKey(path, passwordFile string, password []byte) (any, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if password == nil {
		if bytes.Contains(content, []byte("ENCRYPTED")) {
			return nil, fmt.Errorf("%q is encrypted, and no password file is configured", path)
		}
		return pemutil.Parse(content)
	}
	key, err := pemutil.Parse(content, pemutil.WithPassword(password))
	if err != nil {
		return nil, fmt.Errorf("decrypt %q with the password in %q: %w", path, passwordFile, err)
	}
	return key, nil
}

func belongs(key any, certificate *x509.Certificate) bool {
	signer, ok := key.(crypto.Signer)
	if !ok {
		return false
	}
	public, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(certificate.PublicKey)
}

// create makes the files of an authority under a temporary name and renames them into place, so that
// a crash leaves either nothing or a whole authority. What an earlier crash left is removed.
func create(config Config, files files) error {
	left, err := filepath.Glob(files.dir + ".unfinished-*")
	if err != nil {
		return err
	}
	for _, path := range left {
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	unfinished, err := os.MkdirTemp(config.Dir, filepath.Base(files.dir)+".unfinished-*")
	if err != nil {
		return err
	}
	if err := fill(config, unfinished); err != nil {
		return errors.Join(err, os.RemoveAll(unfinished))
	}
	if err := os.Rename(unfinished, files.dir); err != nil {
		return err
	}
	return syncDir(config.Dir)
}
