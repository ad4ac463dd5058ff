// Package codec encrypts what castellan hands to Temporal: every payload, and the text of every
// failure. It is the second line behind the rule that no secret enters a payload at all.
//
// [Install] prepares the options of a client, and so of every worker made from it: payloads are sealed
// with AES-256-GCM under the keyring's current key and bound to the namespace; the key's id and the
// namespace stand beside them in clear. What arrives unencrypted is refused, so that somebody who can
// write to the namespace but holds no key cannot start a workflow or an activity with arguments of his
// own. The exceptions are the arguments of signals, queries and updates, which may be plain JSON: they
// come from an operator's `temporal` command line, and their handlers validate them.
//
// It does not hide: IDs, types, queues, search attributes, names of signals and updates, error types,
// and the message of a failed query, which Temporal returns in clear and does not store. Memos are
// refused, because the SDK writes them in clear when the converter fails.
//
// A payload sealed under a key that this process does not hold blocks the workflow task, to be tried
// again, instead of failing the workflow: the keyring's file is behind, and no history is to blame.
package codec

import (
	"errors"
	"fmt"

	"castellan.dev/internal/keyring"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"
)

// Encoding is the encoding of an encrypted payload.
const Encoding = "binary/encrypted"

// Metadata keys of an encrypted payload; their values are in clear.
const (
	metadataKeyID     = "encryption-key-id"
	metadataNamespace = "castellan-namespace"
)

var (
	// ErrPlain means that a payload arrived unencrypted where only encrypted ones are accepted.
	ErrPlain = errors.New("payload is not encrypted")
	// ErrNamespace means that a payload was encrypted for another namespace.
	ErrNamespace = errors.New("payload was encrypted for another namespace")
	// ErrMalformed means that what was decrypted is not a payload.
	ErrMalformed = errors.New("payload is malformed")
)

// Codec seals and opens payloads for one namespace. It accepts no plain payload. Its zero value has no
// key and fails.
type Codec struct {
	ring      *keyring.Keyring
	namespace string
}

var _ converter.PayloadCodec = (*Codec)(nil)

// New returns the codec of a namespace.
func New(ring *keyring.Keyring, namespace string) (*Codec, error) {
	if ring == nil || namespace == "" {
		return nil, errors.New("make payload codec: want a keyring and a namespace")
	}
	return &Codec{ring: ring, namespace: namespace}, nil
}

// Encode seals payloads.
func (c *Codec) Encode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	sealed := make([]*commonpb.Payload, len(payloads))
	for i, payload := range payloads {
		var err error
		if sealed[i], err = c.seal(payload); err != nil {
			return nil, fmt.Errorf("encrypt payload: %w", err)
		}
	}
	return sealed, nil
}

// Decode opens payloads, every one of which must be sealed.
func (c *Codec) Decode(payloads []*commonpb.Payload) ([]*commonpb.Payload, error) {
	opened := make([]*commonpb.Payload, len(payloads))
	for i, payload := range payloads {
		var err error
		if opened[i], err = c.open(payload); err != nil {
			return nil, fmt.Errorf("decrypt payload: %w", err)
		}
	}
	return opened, nil
}

func (c *Codec) seal(payload *commonpb.Payload) (*commonpb.Payload, error) {
	if c == nil || c.ring == nil {
		return nil, errors.New("codec has no keyring")
	}
	plain, err := proto.Marshal(payload)
	if err != nil {
		return nil, ErrMalformed
	}
	keyID, data := c.ring.Seal(plain, bound(c.namespace))
	return &commonpb.Payload{
		Metadata: map[string][]byte{
			converter.MetadataEncoding: []byte(Encoding),
			metadataKeyID:              []byte(keyID),
			metadataNamespace:          []byte(c.namespace),
		},
		Data: data,
	}, nil
}

func (c *Codec) open(payload *commonpb.Payload) (*commonpb.Payload, error) {
	if c == nil || c.ring == nil {
		return nil, errors.New("codec has no keyring")
	}
	if !sealed(payload) {
		return nil, ErrPlain
	}
	// The namespace is compared here for a clear error; the seal is bound to it as well.
	if string(payload.GetMetadata()[metadataNamespace]) != c.namespace {
		return nil, ErrNamespace
	}
	plain, err := c.ring.Open(string(payload.GetMetadata()[metadataKeyID]), payload.GetData(), bound(c.namespace))
	if err != nil {
		return nil, err
	}
	opened := new(commonpb.Payload)
	if proto.Unmarshal(plain, opened) != nil {
		return nil, ErrMalformed
	}
	return opened, nil
}

// openOperator opens a payload that may come from an operator's command line.
func (c *Codec) openOperator(payload *commonpb.Payload) (*commonpb.Payload, error) {
	if operator(payload) {
		return payload, nil
	}
	return c.open(payload)
}

// sealed reports whether a payload claims to be encrypted.
func sealed(payload *commonpb.Payload) bool {
	return string(payload.GetMetadata()[converter.MetadataEncoding]) == Encoding
}

// operator reports whether a payload is what Temporal's command line sends: plain JSON, or nothing.
func operator(payload *commonpb.Payload) bool {
	switch string(payload.GetMetadata()[converter.MetadataEncoding]) {
	case converter.MetadataEncodingJSON, converter.MetadataEncodingNil:
		return true
	}
	return false
}

// bound is what every seal of a namespace is bound to.
func bound(namespace string) []byte {
	return append([]byte("castellan temporal payload 1\x00"), namespace...)
}

// refusal reports whether err means that a payload is not to be trusted, as opposed to one that this
// process merely has no key for.
func refusal(err error) bool {
	return errors.Is(err, ErrPlain) || errors.Is(err, ErrNamespace) || errors.Is(err, ErrMalformed) ||
		errors.Is(err, keyring.ErrNotAuthentic)
}
