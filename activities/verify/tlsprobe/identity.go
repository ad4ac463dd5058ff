package tlsprobe

import (
	"crypto/tls"
	"fmt"
	"io"
	"os"
	"syscall"
)

// maxPEM bounds the files that are read.
const maxPEM = 4 << 20

// load reads the identity. Errors name files, never what is in them.
func (i *Identity) load() (*tls.Certificate, error) {
	certificateFile, keyFile := i.CertificateFile, i.KeyFile
	if i.CombinedFile != "" {
		certificateFile = i.CombinedFile
	}
	certificate, err := readBounded(certificateFile)
	if err != nil {
		return nil, err
	}
	key := certificate
	if i.CombinedFile == "" {
		if key, err = readBounded(keyFile); err != nil {
			return nil, err
		}
	}
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return nil, fmt.Errorf("certificate and key of %q: %w", certificateFile, err)
	}
	return &pair, nil
}

func readBounded(path string) ([]byte, error) {
	handle, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	text, err := io.ReadAll(io.LimitReader(handle, maxPEM+1))
	if err == nil && len(text) > maxPEM {
		err = fmt.Errorf("read %q: it is larger than %d bytes", path, maxPEM)
	}
	return text, err
}
