package workers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"castellan.dev/activities/deliver"
	"castellan.dev/activities/deliver/files"
	kubedeliver "castellan.dev/activities/deliver/kubernetes"
	"castellan.dev/activities/deliver/reload"
	"castellan.dev/activities/issue"
	"castellan.dev/activities/issue/stepca"
	"castellan.dev/activities/rotate"
	"castellan.dev/activities/rotate/tlscert"
	"castellan.dev/activities/store/file"
	"castellan.dev/activities/verify"
	"castellan.dev/activities/verify/endpointslices"
	"castellan.dev/activities/verify/tlsprobe"
	"castellan.dev/internal/config"
	"castellan.dev/internal/kubeapi"
	"castellan.dev/internal/servicedb"
)

// The catalogue: every kind of every family, by the name that the configuration uses. Adding a kind is
// a folder and a line here.

type issuerKind struct {
	config func() any
	build  func(builders, config.Section) (issue.Issuer, error)
	roots  func(embedded *stepca.Config, s config.Section) (file string, err error) // its public trust anchors
}

func issuerKinds() map[string]issuerKind {
	return map[string]issuerKind{
		stepca.Kind: {fresh[stepca.Config], func(b builders, s config.Section) (issue.Issuer, error) {
			c, err := decode[stepca.Config](s)
			if err != nil {
				return nil, err
			}
			return stepca.New(c, b.parts.Now)
		}, func(_ *stepca.Config, s config.Section) (string, error) {
			c, err := decode[stepca.Config](s)
			return c.Root, err
		}},
		"embedded": {fresh[struct{}], func(b builders, s config.Section) (issue.Issuer, error) {
			if b.parts.Embedded == nil {
				return nil, errNotEmbedded
			}
			return stepca.New(*b.parts.Embedded, b.parts.Now)
		}, func(embedded *stepca.Config, _ config.Section) (string, error) {
			if embedded == nil {
				return "", errNotEmbedded
			}
			return embedded.Root, nil
		}},
	}
}

var errNotEmbedded = errors.New("kind embedded is the authority inside castellan-dev; use kind step-ca here")

type deliveryKind struct {
	config func() any
	build  func(b builders, name string, s config.Section) (deliver.Deliverer, error)
}

func deliveryKinds() map[string]deliveryKind {
	return map[string]deliveryKind{
		"files": {fresh[files.Config], func(b builders, name string, s config.Section) (deliver.Deliverer, error) {
			c, err := decode[files.Config](s)
			if err != nil {
				return nil, err
			}
			return files.New(c, filepath.Join(b.parts.Memory, "deliveries", filepath.FromSlash(name)), b.parts.Now), nil
		}},
		"kubernetes": {fresh[kubedeliver.Config], func(b builders, name string, s config.Section) (deliver.Deliverer, error) {
			c, err := decode[kubedeliver.Config](s)
			if err != nil {
				return nil, err
			}
			client, err := kubeapi.Connect(c.Config)
			if err != nil {
				return nil, err
			}
			return kubedeliver.NewSecret(client, b.parts.Store, name, c)
		}},
	}
}

type reloadKind struct {
	config func() any
	build  func(b builders, name string, s config.Section) (deliver.Reloader, error)
}

func reloadKinds() map[string]reloadKind {
	return map[string]reloadKind{
		"signal": {fresh[reload.SignalConfig], func(_ builders, _ string, s config.Section) (deliver.Reloader, error) {
			c, err := decode[reload.SignalConfig](s)
			return reload.NewSignal(c), err
		}},
		"systemd": {fresh[reload.SystemdConfig], func(b builders, name string, s config.Section) (deliver.Reloader, error) {
			c, err := decode[reload.SystemdConfig](s)
			return reload.NewSystemd(c, filepath.Join(b.parts.Memory, filepath.FromSlash(name))), err
		}},
		"http": {fresh[reload.HTTPConfig], func(b builders, _ string, s config.Section) (deliver.Reloader, error) {
			c, err := decode[reload.HTTPConfig](s)
			return reload.NewHTTP(c, b.parts.Now), err
		}},
		"rollout": {fresh[kubedeliver.RolloutConfig], func(b builders, _ string, s config.Section) (deliver.Reloader, error) {
			c, err := decode[kubedeliver.RolloutConfig](s)
			if err != nil {
				return nil, err
			}
			client, err := kubeapi.Connect(c.Config)
			if err != nil {
				return nil, err
			}
			return kubedeliver.NewRollout(client, c, b.parts.Now)
		}},
	}
}

type consumerKind struct {
	config func() any
	build  func(p ObserveParts, roots rootsOf, s config.Section) (verify.Verifier, error)
}

func consumerKinds() map[string]consumerKind {
	return map[string]consumerKind{
		"tls": {fresh[tlsprobe.Config], func(p ObserveParts, roots rootsOf, s config.Section) (verify.Verifier, error) {
			c, err := decode[tlsprobe.Config](s)
			if err != nil {
				return nil, err
			}
			return tlsprobe.New(c, tlsprobe.Options{Roots: roots, Now: p.Now}), nil
		}},
		"kubernetes": {fresh[KubernetesConsumer], func(p ObserveParts, roots rootsOf, s config.Section) (verify.Verifier, error) {
			c, err := decode[KubernetesConsumer](s)
			if err != nil {
				return nil, err
			}
			client, err := kubeapi.Connect(c.Service.Config)
			if err != nil {
				return nil, err
			}
			options := tlsprobe.Options{Roots: roots, Now: p.Now, Sources: []tlsprobe.Source{endpointslices.New(client, c.Service)}}
			return tlsprobe.New(c.TLS, options), nil
		}},
	}
}

// KubernetesConsumer is every ready pod behind a Service, probed by TLS.
type KubernetesConsumer struct {
	Service endpointslices.Config `yaml:"service"` // whose pods; required
	TLS     tlsprobe.Config       `yaml:"tls"`     // how to probe them; addresses must stay empty
}

type peerKind struct {
	config func() any
	build  func(b builders, roots rootsOf, s config.Section) (tlscert.RefusalProbe, error)
}

func peerKinds() map[string]peerKind {
	return map[string]peerKind{
		"tls": {fresh[tlsprobe.PeerConfig], func(b builders, roots rootsOf, s config.Section) (tlscert.RefusalProbe, error) {
			c, err := decode[tlsprobe.PeerConfig](s)
			return tlsprobe.NewPeer(c, tlsprobe.Options{Roots: roots, Now: b.parts.Now}), err
		}},
		"none": {fresh[struct{}], func(builders, rootsOf, config.Section) (tlscert.RefusalProbe, error) { return nil, nil }},
	}
}

func (b builders) peer(c config.Certificate, p config.Peer) (tlscert.Peer, error) {
	kind, ok := peerKinds()[p.Kind]
	if !ok {
		return tlscert.Peer{}, fmt.Errorf("kind is %q, want one of %s", p.Kind, names(peerKinds()))
	}
	roots := clientRoots(ObserveParts{Config: b.parts.Config, Embedded: b.parts.Embedded}, c)
	probe, err := kind.build(b, roots, p.Rest)
	return tlscert.Peer{Name: p.Name, Probe: probe}, err
}

// Catalogue lists every kind for the configuration's check.
func Catalogue() config.Catalogue {
	c := config.Catalogue{
		Stores:     map[string]func() any{"file": fresh[file.Config]},
		Databases:  map[string]func() any{servicedb.KindSQLite: fresh[servicedb.Config], servicedb.KindPostgres: fresh[servicedb.Config]},
		Issuers:    map[string]func() any{},
		Deliveries: map[string]func() any{},
		Reloads:    map[string]func() any{},
		Consumers:  map[string]func() any{},
		Peers:      map[string]func() any{},
	}
	for name, kind := range issuerKinds() {
		c.Issuers[name] = kind.config
	}
	for name, kind := range deliveryKinds() {
		c.Deliveries[name] = kind.config
	}
	for name, kind := range reloadKinds() {
		c.Reloads[name] = kind.config
	}
	for name, kind := range consumerKinds() {
		c.Consumers[name] = kind.config
	}
	for name, kind := range peerKinds() {
		c.Peers[name] = kind.config
	}
	return c
}

// fresh returns a new configuration of a kind.
func fresh[C any]() any { return new(C) }

// decode reads a section strictly.
func decode[C any](s config.Section) (C, error) {
	var c C
	return c, s.Decode(&c).Err()
}

// rootsOf reads the trust anchors that clients hold today, PEM.
type rootsOf func(context.Context) ([]byte, error)

// clientRoots returns how to read the bundle of a certificate's clients: the configured file, or the
// issuer's roots. It is read at every look, because bundles rotate, too.
func clientRoots(parts ObserveParts, c config.Certificate) rootsOf {
	return func(context.Context) ([]byte, error) {
		path := c.BundleFile
		if path == "" {
			section := parts.Config.Issuers[c.Issuer]
			kind, ok := issuerKinds()[section.Kind()]
			if !ok {
				return nil, fmt.Errorf("issuer %q has kind %q, want one of %s", c.Issuer, section.Kind(), names(issuerKinds()))
			}
			var err error
			if path, err = kind.roots(parts.Embedded, section); err != nil {
				return nil, err
			}
		}
		return os.ReadFile(path)
	}
}

// NewWatcher builds the observe zone's step for every configured consumer.
func NewWatcher(parts ObserveParts) (*rotate.Watcher, error) {
	consumers := map[string][]rotate.Consumer{}
	for _, name := range parts.Config.Targets() {
		consumers[name] = []rotate.Consumer{}
		for _, declared := range parts.Config.Certificates[name].Consumers {
			kind, ok := consumerKinds()[declared.Kind]
			if !ok {
				return nil, fmt.Errorf("certificate %q: consumer %q: kind is %q, want one of %s", name, declared.Name, declared.Kind, names(consumerKinds()))
			}
			verifier, err := kind.build(parts, clientRoots(parts, parts.Config.Certificates[name]), declared.Rest)
			if err != nil {
				return nil, fmt.Errorf("certificate %q: consumer %q: %w", name, declared.Name, err)
			}
			consumers[name] = append(consumers[name], rotate.Consumer{Name: declared.Name, Verifier: verifier})
		}
	}
	find := func(target string) ([]rotate.Consumer, bool) {
		list, ok := consumers[target]
		return list, ok
	}
	return rotate.NewWatcher(find, parts.Recorder, parts.Now), nil
}
