package workers

import (
	"cmp"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver"
	"castellan.dev/activities/issue"
	"castellan.dev/activities/rotate"
	"castellan.dev/activities/rotate/tlscert"
	"castellan.dev/internal/config"
	"castellan.dev/internal/policy"
)

// holder resolves targets by name from one worker's own configuration. Everything is built once, at
// start, so that a mistake stops the worker and not a rotation.
type holder struct {
	targets      map[string]rotate.Target
	certificates map[string]tlscert.Certificate
	configured   map[string]config.Certificate
	policies     map[string]policy.Policy
}

// newHolder builds the targets of one host; AnyHost builds all. The others are known by name, so that
// a rotation can be sent to where its target is.
func newHolder(parts PrivilegedParts, host string) (*holder, error) {
	h := &holder{
		targets: map[string]rotate.Target{}, certificates: map[string]tlscert.Certificate{},
		configured: parts.Config.Certificates, policies: map[string]policy.Policy{},
	}
	built := builders{parts: parts, issuers: map[string]issue.Issuer{}}
	for _, name := range parts.Config.Targets() {
		declared := parts.Config.Certificates[name]
		resolved, err := parts.Config.PolicyOf(name)
		if err != nil {
			return nil, err
		}
		h.policies[name] = resolved
		h.targets[name] = targetOf(name, declared, resolved.Group)
		if at := HostOf(declared); host != AnyHost && at != host {
			continue
		}
		certificate, err := built.certificate(name, declared)
		if err != nil {
			return nil, fmt.Errorf("certificate %q: %w", name, err)
		}
		h.certificates[name] = certificate
	}
	return h, nil
}

// HostOf returns the one host whose worker drives a certificate: its key never leaves that host.
func HostOf(c config.Certificate) string {
	for _, delivery := range c.Deliveries {
		if delivery.Host != "" {
			return delivery.Host
		}
	}
	return ""
}

// targetOf turns the configuration of a certificate into what the saga needs to know.
func targetOf(name string, c config.Certificate, group string) rotate.Target {
	grace := c.CanaryGrace
	if grace == 0 {
		grace = time.Minute
	}
	return rotate.Target{
		Name: name, Kind: tlscert.Name, Host: HostOf(c), Observed: c.Observe, Group: group,
		Waves: wavesOf(c), CanaryFor: grace,
	}
}

// wavesOf splits the deliveries into the canary and the rest, and gives each consumer to the first wave
// after which everything that it reads has been published.
func wavesOf(c config.Certificate) []activities.Wave {
	canary := c.Canary
	if canary <= 0 {
		canary = 1
	}
	canary = min(canary, len(c.Deliveries))
	groups := [][]config.Delivery{c.Deliveries[:canary]}
	if rest := c.Deliveries[canary:]; len(rest) > 0 {
		groups = append(groups, rest)
	}
	var waves []activities.Wave
	var published []string
	placed := map[string]bool{}
	for _, group := range groups {
		var wave activities.Wave
		for _, delivery := range group {
			wave.Deliveries = append(wave.Deliveries, delivery.Name)
			published = append(published, delivery.Name)
		}
		last := len(published) == len(c.Deliveries)
		for _, consumer := range c.Consumers {
			if !placed[consumer.Name] && (last || len(consumer.Delivery) > 0 && subset(consumer.Delivery, published)) {
				wave.Consumers = append(wave.Consumers, consumer.Name)
				placed[consumer.Name] = true
			}
		}
		waves = append(waves, wave)
	}
	if len(waves) == 2 && len(waves[0].Consumers) == 0 {
		// Nobody reads the canary alone, so nothing could be proven of it: there is one wave.
		return []activities.Wave{{Deliveries: published, Consumers: waves[1].Consumers}}
	}
	return waves
}

func subset(names, of []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(of, name) })
}

func (h *holder) target(name string) (rotate.Target, bool) {
	target, ok := h.targets[name]
	return target, ok
}

// elsewhere reports whether the target is known, and another worker's.
func (h *holder) elsewhere(name string) bool {
	_, here := h.certificates[name]
	_, known := h.targets[name]
	return known && !here
}

func (h *holder) certificate(name string) (tlscert.Certificate, bool) {
	certificate, ok := h.certificates[name]
	return certificate, ok
}

// decide asks the policy.
func (h *holder) decide(s rotate.Situation) activities.Verdict { return policy.Decide(h.input(s)) }

// next asks the policy when the target is worth deciding about again.
func (h *holder) next(s rotate.Situation) (time.Time, bool) { return policy.NextDue(h.input(s)) }

// input gathers what the policy decides from. What could not be observed stays empty and is not compared.
func (h *holder) input(s rotate.Situation) policy.Input {
	declared := h.configured[s.Target.Name]
	in := policy.Input{
		Now: s.Now, Target: s.Target.Name, Policy: h.policies[s.Target.Name], Trigger: s.Trigger,
		InHand:  s.Open,
		Group:   policy.Group{Holder: s.GroupHolder, Last: s.GroupLast, LastMember: s.GroupMember},
		Desired: policy.Desired{KeyAlgorithm: declared.Key, DNSNames: declared.DNSNames, IPAddresses: declared.IPAddresses, URIs: declared.URIs},
		Observed: policy.Observed{
			Exists: s.Observation.Exists, NotBefore: s.Observation.Current.NotBefore, NotAfter: s.Observation.Current.NotAfter,
			Fingerprint: s.Observation.Current.Fingerprint,
		},
	}
	if leaf := s.Observation.Leaf; leaf != nil {
		in.Observed.KeyAlgorithm = string(tlscert.AlgorithmOf(leaf.PublicKey))
		in.Observed.DNSNames = leaf.DNSNames
		in.Observed.CommonName = leaf.Subject.CommonName
		in.Desired.CommonName = declared.CommonName
		for _, address := range leaf.IPAddresses {
			in.Observed.IPAddresses = append(in.Observed.IPAddresses, address.String())
		}
		for _, uri := range leaf.URIs {
			in.Observed.URIs = append(in.Observed.URIs, uri.String())
		}
	}
	return in
}

// builders make a certificate's parts from their sections.
type builders struct {
	parts   PrivilegedParts
	issuers map[string]issue.Issuer
}

func (b builders) certificate(name string, c config.Certificate) (tlscert.Certificate, error) {
	issuer, err := b.issuer(c.Issuer)
	if err != nil {
		return tlscert.Certificate{}, err
	}
	out := tlscert.Certificate{
		Name: name, CommonName: c.CommonName, DNSNames: c.DNSNames, IPAddresses: c.IPAddresses, URIs: c.URIs,
		Usage: cmp.Or(c.Usage, "server"), Algorithm: tlscert.Algorithm(c.Key), Lifetime: c.Lifetime, Issuer: issuer, Rekey: c.Rekey,
	}
	if c.BundleFile != "" {
		// Read at each use: bundles rotate, too, and a stale one must not be delivered over a fresh one.
		out.Bundle = func() ([]byte, error) { return os.ReadFile(c.BundleFile) }
	}
	for _, declared := range c.Deliveries {
		delivery, err := b.delivery(name, declared)
		if err != nil {
			return tlscert.Certificate{}, fmt.Errorf("delivery %q: %w", declared.Name, err)
		}
		out.Deliveries = append(out.Deliveries, delivery)
	}
	for _, declared := range c.Peers {
		peer, err := b.peer(c, declared)
		if err != nil {
			return tlscert.Certificate{}, fmt.Errorf("peer %q: %w", declared.Name, err)
		}
		out.Peers = append(out.Peers, peer)
	}
	return out, nil
}

// issuer builds each issuer once.
func (b builders) issuer(name string) (issue.Issuer, error) {
	if issuer, ok := b.issuers[name]; ok {
		return issuer, nil
	}
	section := b.parts.Config.Issuers[name]
	kind, ok := issuerKinds()[section.Kind()]
	if !ok {
		return nil, fmt.Errorf("issuer %q has kind %q, want one of %s", name, section.Kind(), names(issuerKinds()))
	}
	issuer, err := kind.build(b, section)
	if err != nil {
		return nil, fmt.Errorf("issuer %q: %w", name, err)
	}
	b.issuers[name] = issuer
	return issuer, nil
}

func (b builders) delivery(target string, d config.Delivery) (tlscert.Delivery, error) {
	kind, ok := deliveryKinds()[d.Kind]
	if !ok {
		return tlscert.Delivery{}, fmt.Errorf("kind is %q, want one of %s", d.Kind, names(deliveryKinds()))
	}
	deliverer, err := kind.build(b, target+"/"+d.Name, d.Rest)
	if err != nil {
		return tlscert.Delivery{}, err
	}
	out := tlscert.Delivery{Name: d.Name, Deliverer: deliverer}
	if d.Reload == nil || d.Reload.IsZero() {
		return out, nil
	}
	reloadKind, ok := reloadKinds()[d.Reload.Kind()]
	if !ok {
		return tlscert.Delivery{}, fmt.Errorf("reload kind is %q, want one of %s", d.Reload.Kind(), names(reloadKinds()))
	}
	reloader, err := reloadKind.build(b, target+"/"+d.Name, *d.Reload)
	if err != nil {
		return tlscert.Delivery{}, fmt.Errorf("reload: %w", err)
	}
	out.Reloaders = []deliver.Reloader{reloader}
	return out, nil
}

func names[K any](kinds map[string]K) string {
	var list []string
	for name := range kinds {
		list = append(list, name)
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}
