package identity

import (
	"crypto/ecdsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
)

// Files are the two files of one identity. Certificate and key share one file, so that a reader
// never meets the certificate of one renewal with the key of another.
type Files struct {
	Pair  string // certificate chain and key, PEM, 0600
	Roots string // the CA's roots, PEM
}

// FilesIn returns where the identity name lies below dir.
func FilesIn(dir, name string) Files {
	base := filepath.Join(dir, filepath.FromSlash(name))
	return Files{Pair: filepath.Join(base, "identity.pem"), Roots: filepath.Join(base, "ca.pem")}
}

// write stores roots first: a peer's certificate under a root made just now must be trusted before
// this identity shows its own.
func (f Files) write(key *ecdsa.PrivateKey, chain []*x509.Certificate, roots []byte) error {
	content, err := formatPair(key, chain)
	if err != nil {
		return err
	}
	if err := writeFile(f.Roots, roots, 0o600); err != nil {
		return err
	}
	return writeFile(f.Pair, content, 0o600)
}

// stamp tells one state of the files from another. A renewal renames a file over its predecessor,
// so the inode changes even when two renewals fall into one tick of the file system's clock.
type stamp struct{ pair, roots os.FileInfo }

func (f Files) stamp() (stamp, error) {
	pair, err := os.Stat(f.Pair)
	if err != nil {
		return stamp{}, err
	}
	roots, err := os.Stat(f.Roots)
	if err != nil {
		return stamp{}, err
	}
	return stamp{pair: pair, roots: roots}, nil
}

func (s stamp) equal(other stamp) bool {
	return sameFile(s.pair, other.pair) && sameFile(s.roots, other.roots)
}

func sameFile(a, b os.FileInfo) bool {
	return a != nil && b != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

func (s *Source) reload() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reloadLocked()
}

// reloadLocked reads the files if they changed since they were read last.
func (s *Source) reloadLocked() error {
	seen, err := s.config.Files.stamp()
	if err != nil {
		return fmt.Errorf("read identity %q: %w", s.config.Name, err)
	}
	if s.current != nil && s.current.stamp.equal(seen) {
		return nil
	}
	pair, err := os.ReadFile(s.config.Files.Pair)
	if err != nil {
		return fmt.Errorf("read identity %q: %w", s.config.Name, err)
	}
	roots, err := os.ReadFile(s.config.Files.Roots)
	if err != nil {
		return fmt.Errorf("read identity %q: %w", s.config.Name, err)
	}
	key, chain, err := parsePair(pair)
	if err != nil {
		return fmt.Errorf("read identity %q: file %q: %w", s.config.Name, s.config.Files.Pair, err)
	}
	read, err := s.assemble(key, chain, roots)
	if err != nil {
		return fmt.Errorf("read identity %q: file %q: %w", s.config.Name, s.config.Files.Pair, err)
	}
	read.stamp = seen
	s.current = read
	return nil
}

func requestTemplate(name string) *x509.CertificateRequest {
	return &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}, URIs: []*url.URL{nameURI(name)}}
}
