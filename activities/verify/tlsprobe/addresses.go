package tlsprobe

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"

	"castellan.dev/activities"
)

// Source lists addresses as host:port, such as those behind a Kubernetes Service. None is not an error.
type Source interface {
	Addresses(ctx context.Context) ([]string, error)
}

// Resolver resolves names. It is net.DefaultResolver outside tests.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// endpoint is an address to dial and the name to ask for there.
type endpoint struct {
	address string
	name    string
}

// list returns every endpoint once, sorted.
func (p *prober) list(ctx context.Context) ([]endpoint, error) {
	var all []endpoint
	for _, address := range p.config.Addresses {
		all = append(all, p.endpoint(address, ""))
	}
	for _, name := range p.config.DNS {
		found, err := p.resolve(ctx, name)
		if err != nil {
			return nil, err
		}
		all = append(all, found...)
	}
	for _, source := range p.options.Sources {
		addresses, err := source.Addresses(ctx)
		if err != nil {
			return nil, err
		}
		for _, address := range addresses {
			all = append(all, p.endpoint(address, ""))
		}
	}
	slices.SortFunc(all, func(a, b endpoint) int {
		return strings.Compare(a.address+" "+a.name, b.address+" "+b.name)
	})
	return slices.Compact(all), nil
}

// endpoint chooses the name: the configured one, else the given one, else the host.
func (p *prober) endpoint(address, name string) endpoint {
	switch {
	case p.config.ServerName != "":
		name = p.config.ServerName
	case name == "":
		name, _, _ = net.SplitHostPort(address)
	}
	return endpoint{address: address, name: name}
}

// resolve returns every address of a name. A name that does not exist has none.
func (p *prober) resolve(ctx context.Context, target string) ([]endpoint, error) {
	name, port, err := net.SplitHostPort(target)
	if err != nil {
		return nil, activities.Errorf(activities.Invalid, "resolve %q: %w", target, err)
	}
	ctx, cancel := context.WithTimeout(ctx, p.config.Timeout)
	defer cancel()
	addresses, err := p.options.Resolver.LookupNetIP(ctx, "ip", name)
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, activities.Errorf(activities.Transient, "resolve %q: %w", name, err)
	}
	var all []endpoint
	for _, address := range addresses {
		all = append(all, p.endpoint(net.JoinHostPort(address.Unmap().String(), port), name))
	}
	return all, nil
}
