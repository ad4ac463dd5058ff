package ca

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
)

// files names what the authority keeps in its directory. The directory appears complete or not at
// all: it is filled under another name and renamed.
type files struct{ dir string }

func (f files) rootCertificate() string         { return filepath.Join(f.dir, "root.crt") }
func (f files) rootKey() string                 { return filepath.Join(f.dir, "root.key") }
func (f files) intermediateCertificate() string { return filepath.Join(f.dir, "intermediate.crt") }
func (f files) intermediateKey() string         { return filepath.Join(f.dir, "intermediate.key") }
func (f files) provisioner() string             { return filepath.Join(f.dir, "provisioner.json") }
func (f files) provisionerPassword() string     { return filepath.Join(f.dir, "provisioner-password") }

// write creates a file that only the owner may read and makes it durable.
func write(path string, content []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

func writePEM(path string, block *pem.Block) error {
	return write(path, pem.EncodeToMemory(block))
}

// syncDir makes the names in a directory durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	err = dir.Sync()
	if closeErr := dir.Close(); err == nil {
		err = closeErr
	}
	return err
}

// newPassword returns 256 random bits as text without a line break, so that every tool reads it alike.
func newPassword() []byte {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw) // never fails: crypto/rand aborts the process instead
	return []byte(base64.RawURLEncoding.EncodeToString(raw))
}

// private refuses a secret file that others may read.
func private(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return fmt.Errorf("%q may be read by others than its owner (mode %04o); change it to 0600", path, info.Mode().Perm())
	}
	return nil
}
