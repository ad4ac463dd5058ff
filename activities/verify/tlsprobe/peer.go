package tlsprobe

import (
	"context"
	"crypto/tls"
	"fmt"
	"strings"
	"time"

	"castellan.dev/activities"
)

// PeerConfig declares a server that demands the certificate and must refuse it when it is revoked.
type PeerConfig struct {
	Endpoints `yaml:",inline"`

	Wait time.Duration `yaml:"wait"` // how long the peer may take to learn of the revocation; default 30s
}

const (
	defaultWait = 30 * time.Second
	maxWait     = 5 * time.Minute
	peerPause   = 250 * time.Millisecond
)

// Check reports every problem of the configuration.
func (c PeerConfig) Check(report func(field, value, want string)) {
	c.Endpoints.check(report)
	if c.Wait < 0 || c.Wait > maxWait {
		report("wait", c.Wait.String(), "a duration from 0s (the default of 30s) to 5m")
	}
}

// Peer asks a server whether it refuses a revoked client certificate.
type Peer struct {
	*prober
	wait time.Duration
}

// NewPeer returns the peer of a checked configuration.
func NewPeer(config PeerConfig, options Options) *Peer {
	if config.Wait == 0 {
		config.Wait = defaultWait
	}
	return &Peer{prober: newProber(config.Endpoints, options), wait: config.Wait}
}

// Refused connects to every address with the sibling, the previous and the sibling again. It is proven
// when each refuses the previous, which has not expired, and accepts the sibling before and after. A
// peer that still accepts the previous is asked again until its time to learn is over. An error means
// that a peer could not be asked.
func (p *Peer) Refused(ctx context.Context, previous, sibling tls.Certificate) (proven bool, sentence string, err error) {
	deadline := p.options.Now().Add(p.wait)
	for {
		proven, accepts, sentence, err := p.round(ctx, previous, sibling)
		if err != nil || proven || !accepts || !p.options.Now().Before(deadline) {
			return proven, sentence, err
		}
		select {
		case <-ctx.Done():
			return false, sentence, activities.Errorf(activities.Transient, "ask the peer: %w", ctx.Err())
		case <-time.After(peerPause):
		}
	}
}

// round asks every address once. Accepts says that somebody still accepts the previous certificate.
func (p *Peer) round(ctx context.Context, previous, sibling tls.Certificate) (proven, accepts bool, sentence string, err error) {
	endpoints, err := p.list(ctx)
	if err != nil {
		return false, false, "", err
	}
	if len(endpoints) == 0 {
		return false, false, "it has no address", nil
	}
	if previous.Leaf != nil && !p.options.Now().Before(previous.Leaf.NotAfter) {
		return false, false, "the previous certificate has expired, so that a refusal would not show its revocation", nil
	}
	var said []string
	for _, e := range endpoints {
		refused, accepted, sentence, err := p.compare(ctx, e, previous, sibling)
		if err != nil {
			return false, false, "", err
		}
		if !refused {
			return false, accepted, sentence, nil
		}
		said = append(said, sentence)
	}
	return true, false, strings.Join(said, "; "), nil
}

// compare asks one address.
func (p *Peer) compare(ctx context.Context, e endpoint, previous, sibling tls.Certificate) (refused, accepted bool, sentence string, err error) {
	roots, err := p.roots(ctx)
	if err != nil {
		return false, false, "", activities.Errorf(activities.Transient, "ask peer %s: %w", e.address, err)
	}
	var middle meeting
	for i, certificate := range []*tls.Certificate{&sibling, &previous, &sibling} {
		m := p.meet(ctx, e, roots, certificate)
		if i == 1 {
			middle = m
			continue
		}
		switch {
		case m.stage == exchanged && !m.asked:
			return false, false, e.address + " asks for no client certificate", nil
		case m.stage == exchanged:
		case m.asked && m.judged():
			return false, false, fmt.Sprintf("%s refuses the candidate, too (%s)", e.address, describe(m)), nil
		default:
			return false, false, "", activities.Errorf(activities.Transient, "ask peer %s: %s", e.address, describe(m))
		}
	}
	switch {
	case middle.stage == exchanged:
		return false, true, e.address + " accepts the previous certificate", nil
	case middle.judged():
		return true, false, fmt.Sprintf("%s refuses the previous certificate (%s) and accepts the candidate", e.address, describe(middle)), nil
	}
	return false, false, "", activities.Errorf(activities.Transient, "ask peer %s: %s", e.address, describe(middle))
}
