package files

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"io/fs"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
)

// slot names one file of a delivery.
type slot string

const (
	certificateSlot slot = "certificate"
	keySlot         slot = "key"
	bundleSlot      slot = "bundle"
	combinedSlot    slot = "combined"
)

// secret reports whether the slot's file holds a private key.
func (s slot) secret() bool { return s == keySlot || s == combinedSlot }

// attributes are what a file keeps when its content is replaced.
type attributes struct {
	Mode fs.FileMode `json:"mode"`
	UID  int         `json:"uid"`
	GID  int         `json:"gid"`
}

// file is the content of one slot.
type file struct {
	data []byte
	attributes
}

// content is what a consumer reads: one file per slot.
type content struct {
	files     map[slot]file
	directory *attributes // generation: of the generation's directory; nil: unknown
	place     string      // generation: the name that `current` leads to, below the served directory
}

// empty reports whether nothing has been delivered. Empty files count as nothing: packages like to
// leave them as place holders.
func (c content) empty() bool {
	for _, f := range c.files {
		if len(bytes.TrimSpace(f.data)) > 0 {
			return false
		}
	}
	return true
}

// equal reports whether both hold the same bytes in the same slots. The comparison is of what lies on
// the same disk under the same rights, so its time gives nothing away.
func (c content) equal(other content) bool {
	if len(c.files) != len(other.files) {
		return false
	}
	for name, f := range c.files {
		o, ok := other.files[name]
		if !ok || !bytes.Equal(f.data, o.data) {
			return false
		}
	}
	return true
}

// public is what can be told about content.
type public struct {
	fingerprint string
	chain       []byte
	notAfter    time.Time
	paired      bool // the key belongs to the leaf
}

// inspect reads the public part of content.
func (c content) inspect() public {
	certificate, key := c.files[certificateSlot].data, c.files[keySlot].data
	if combined, ok := c.files[combinedSlot]; ok {
		certificate, key = combined.data, combined.data
	}
	var result public
	var chain bytes.Buffer
	rest := certificate
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		if result.fingerprint == "" {
			leaf, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return public{}
			}
			result.fingerprint = fingerprintOf(leaf)
			result.notAfter = leaf.NotAfter
		}
		_ = pem.Encode(&chain, &pem.Block{Type: block.Type, Bytes: block.Bytes})
	}
	result.chain = chain.Bytes()
	_, err := tls.X509KeyPair(certificate, key)
	result.paired = err == nil
	return result
}

func fingerprintOf(leaf *x509.Certificate) string {
	sum := sha256.Sum256(leaf.Raw)
	return hex.EncodeToString(sum[:])
}

// render lays material out as the files of the configured layout, without attributes. It refuses
// material that is not what it says, because consumers could not use it.
func (c Config) render(material deliver.Material) (content, error) {
	pair, err := tls.X509KeyPair(material.Chain, material.Key)
	if err != nil {
		return content{}, activities.Errorf(activities.Invalid, "deliver epoch %d: chain and key: %w", material.Epoch, err)
	}
	if got := fingerprintOf(pair.Leaf); got != material.Fingerprint {
		return content{}, activities.Errorf(activities.Invalid,
			"deliver epoch %d: the leaf is %s, not %s as announced", material.Epoch, got, material.Fingerprint)
	}
	if material.Epoch == 0 {
		return content{}, activities.Errorf(activities.Invalid, "deliver %s: epoch 0 cannot be fenced", material.Fingerprint)
	}
	files := map[slot]file{}
	if c.Layout == Combined {
		parts := [][]byte{material.Chain, material.Key}
		if c.Order == KeyFirst {
			parts = [][]byte{material.Key, material.Chain}
		}
		if c.IncludeBundle {
			parts = append(parts, material.Bundle)
		}
		files[combinedSlot] = file{data: joinPEM(parts)}
		return content{files: files}, nil
	}
	files[certificateSlot] = file{data: material.Chain}
	files[keySlot] = file{data: material.Key}
	if len(material.Bundle) > 0 && c.Bundle != "" {
		files[bundleSlot] = file{data: material.Bundle}
	}
	return content{files: files}, nil
}

// joinPEM concatenates PEM texts, each ended by a line break.
func joinPEM(parts [][]byte) []byte {
	var joined bytes.Buffer
	for _, part := range parts {
		joined.Write(part)
		if len(part) > 0 && part[len(part)-1] != '\n' {
			joined.WriteByte('\n')
		}
	}
	return joined.Bytes()
}
