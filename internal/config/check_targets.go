package config

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"castellan.dev/internal/policy"
)

// dnsName matches a host name, with a wildcard as the first label at most.
var dnsName = regexp.MustCompile(`^(\*\.)?([a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?\.)*[a-zA-Z0-9_]([a-zA-Z0-9_-]{0,61}[a-zA-Z0-9_])?$`)

// keys lists the key algorithms that certificates may have.
func keys() []string {
	return []string{"ecdsa-p256", "ecdsa-p384", "ed25519", "rsa-2048", "rsa-3072", "rsa-4096"}
}

// certificate checks one certificate.
func (c *checks) certificate(path, name string, certificate Certificate) {
	c.reference(join(path, "issuer"), certificate.Issuer, slices.Sorted(maps.Keys(c.config.Issuers)))
	if certificate.Issuer == "" {
		c.report(join(path, "issuer"), "", "the name of an issuer")
	}
	if certificate.Policy != "" {
		c.reference(join(path, "policy"), certificate.Policy, slices.Sorted(maps.Keys(c.config.Policies)))
	}
	c.choice(join(path, "usage"), certificate.Usage, "server", "client", "both")
	c.choice(join(path, "key"), certificate.Key, keys()...)
	c.subject(path, certificate)
	if c.config.Has(join(path, "lifetime")) && certificate.Lifetime < 10*time.Second {
		c.report(join(path, "lifetime"), policy.FormatDuration(certificate.Lifetime), "at least 10s")
	}
	if len(certificate.Deliveries) == 0 && !certificate.Observe {
		c.report(join(path, "deliveries"), "", "at least one delivery, or observe: true")
	}
	if len(certificate.Consumers) == 0 && !certificate.Observe {
		c.report(join(path, "consumers"), "", "at least one consumer, or observe: true: without one nothing proves that the previous key may be erased")
	}
	if c.config.Has(join(path, "canary")) && (certificate.Canary < 1 || certificate.Canary > max(1, len(certificate.Deliveries))) {
		c.report(join(path, "canary"), strconv.Itoa(certificate.Canary), fmt.Sprintf("between 1 and the number of deliveries, %d", len(certificate.Deliveries)))
	}
	names := c.deliveries(join(path, "deliveries"), certificate.Deliveries)
	c.consumers(join(path, "consumers"), certificate.Consumers, names)
	c.peers(join(path, "peers"), certificate.Peers)
	if before := c.config.Policies[orDefault(certificate.Policy)].RenewBefore; certificate.Lifetime > 0 && before >= certificate.Lifetime {
		c.report(join(path, "lifetime"), policy.FormatDuration(certificate.Lifetime),
			fmt.Sprintf("longer than %s, which policy %q renews before the end", policy.FormatDuration(before), orDefault(certificate.Policy)))
	}
}

// orDefault returns the name of the policy that applies.
func orDefault(name string) string {
	if name == "" {
		return "default"
	}
	return name
}

// reference checks that a name is declared elsewhere.
func (c *checks) reference(path, name string, declared []string) {
	if name != "" && !slices.Contains(declared, name) {
		c.report(path, name, oneOf(name, declared))
	}
}

// subject checks what the certificate is for.
func (c *checks) subject(path string, certificate Certificate) {
	if len(certificate.DNSNames)+len(certificate.IPAddresses)+len(certificate.URIs) == 0 {
		c.report(join(path, "dnsNames"), "", "at least one of dnsNames, ipAddresses and uris")
	}
	for i, name := range certificate.DNSNames {
		if len(name) > 253 || !dnsName.MatchString(name) {
			c.report(fmt.Sprintf("%s.dnsNames[%d]", path, i), name, "a DNS name such as payments.example.com")
		}
	}
	for i, address := range certificate.IPAddresses {
		if parsed, err := netip.ParseAddr(address); err != nil || parsed.Zone() != "" {
			c.report(fmt.Sprintf("%s.ipAddresses[%d]", path, i), address, "an IP address such as 192.0.2.7")
		}
	}
	for i, uri := range certificate.URIs {
		if parsed, err := url.Parse(uri); err != nil || parsed.Scheme == "" || parsed.User != nil {
			c.report(fmt.Sprintf("%s.uris[%d]", path, i), uri, "a URI such as spiffe://example.com/payments")
		}
	}
	if len(certificate.CommonName) > 64 {
		c.report(join(path, "commonName"), certificate.CommonName, "at most 64 characters (RFC 5280, ub-common-name)")
	}
}

// deliveries checks a certificate's deliveries and returns their names.
func (c *checks) deliveries(path string, deliveries []Delivery) []string {
	names := make([]string, len(deliveries))
	host := ""
	for i, delivery := range deliveries {
		at := fmt.Sprintf("%s[%d]", path, i)
		names[i] = c.named(at, delivery.Name, delivery.Kind, names[:i])
		if delivery.Host != "" && host == "" {
			host = delivery.Host
		}
		if delivery.Host != "" && delivery.Host != host {
			c.report(join(at, "host"), delivery.Host, fmt.Sprintf("%q like the delivery before: one host's worker drives a certificate, so that its key never leaves that host; declare a certificate per host", host))
		}
		if delivery.Host != "" {
			c.reference(join(at, "host"), delivery.Host, c.config.Hosts)
		}
		if delivery.Reload != nil {
			c.section(join(at, "reload"), *delivery.Reload)
		}
	}
	return names
}

// consumers checks a certificate's consumers.
func (c *checks) consumers(path string, consumers []Consumer, deliveries []string) {
	names := make([]string, len(consumers))
	for i, consumer := range consumers {
		at := fmt.Sprintf("%s[%d]", path, i)
		names[i] = c.named(at, consumer.Name, consumer.Kind, names[:i])
		for j, delivery := range consumer.Delivery {
			c.reference(fmt.Sprintf("%s.delivery[%d]", at, j), delivery, deliveries)
		}
	}
}

// peers checks a certificate's peers. Their names stand in the evidence of a revocation.
func (c *checks) peers(path string, peers []Peer) {
	names := make([]string, len(peers))
	for i, peer := range peers {
		at := fmt.Sprintf("%s[%d]", path, i)
		c.required(join(at, "name"), peer.Name, "a name")
		names[i] = c.named(at, peer.Name, peer.Kind, names[:i])
	}
}

// named checks kind and name of a delivery or consumer and returns the name that it goes by.
func (c *checks) named(path, name, kind string, taken []string) string {
	c.required(join(path, "kind"), kind, "a kind")
	if name == "" {
		name = kind
	}
	switch {
	case name == "":
	case !targetName.MatchString(name):
		c.report(join(path, "name"), name, "a name of at most 63 lower-case letters, digits, '-' and '.'")
	case slices.Contains(taken, name):
		c.report(join(path, "name"), name, "a name that no other in this list has")
	}
	return name
}

// policy checks one policy.
func (c *checks) policy(path string, each Policy) {
	if !each.RenewAt.IsZero() && c.config.Has(join(path, "renewBefore")) {
		c.report(join(path, "renewBefore"), policy.FormatDuration(each.RenewBefore), "either renewAt or renewBefore")
	} else if c.config.Has(join(path, "renewBefore")) && each.RenewBefore <= 0 {
		c.report(join(path, "renewBefore"), "0s", "a duration such as 10d")
	}
	c.choice(join(path, "window"), each.Window, "preferred", "strict")
	if each.Window == "strict" && len(each.Windows)+len(each.Blackouts) == 0 {
		c.report(join(path, "window"), each.Window, "windows or blackouts to be strict about")
	}
	for i, window := range each.Windows {
		at := fmt.Sprintf("%s.windows[%d]", path, i)
		if !window.Start.given {
			c.report(join(at, "start"), "", "a time of day such as 02:30")
		}
		if window.Duration < time.Minute || window.Duration > 7*24*time.Hour {
			value := ""
			if c.config.Has(join(at, "duration")) {
				value = policy.FormatDuration(window.Duration)
			}
			c.report(join(at, "duration"), value, "a duration between 1m and 7d")
		}
	}
	for i, name := range each.Blackouts {
		c.reference(fmt.Sprintf("%s.blackouts[%d]", path, i), name, slices.Sorted(maps.Keys(c.config.Blackouts)))
	}
	if each.Apart.Given() && each.Group == "" {
		c.report(join(path, "apart"), each.Apart.String(), "a group whose members it keeps apart")
	}
	if each.Apart.Given() && len(each.Windows) > 0 {
		c.report(join(path, "apart"), each.Apart.String(), "no apart together with windows: members never share a window")
	}
}

// blackout checks one calendar.
func (c *checks) blackout(path string, calendar Blackout) {
	if len(calendar.Periods) == 0 {
		c.report(join(path, "periods"), "", "at least one period")
	}
	for i, period := range calendar.Periods {
		at := fmt.Sprintf("%s.periods[%d]", path, i)
		if period.From.IsZero() {
			c.report(join(at, "from"), "", "a date such as 2026-12-20")
		}
		if period.Until.IsZero() {
			c.report(join(at, "until"), "", "a date such as 2027-01-03")
		}
		if period.From.IsZero() || period.Until.IsZero() {
			continue
		}
		resolved := period.blackout("", calendar.Timezone)
		switch {
		case period.From.yearly != period.Until.yearly:
			c.report(join(at, "until"), period.Until.String(), "both dates with a year or both without")
		case !resolved.Yearly && !resolved.Until.After(resolved.From):
			c.report(join(at, "until"), period.Until.String(), "a date after from")
		}
	}
}

// String returns the date as it was written.
func (d Date) String() string {
	layout := "2006-01-02T15:04"
	if d.day {
		layout = "2006-01-02"
	}
	text := d.moment.Format(layout)
	if d.yearly {
		return strings.TrimPrefix(text, "2024-")
	}
	return text
}

// groups checks that each exclusion group excludes somebody.
func (c *checks) groups() {
	members := map[string]int{}
	for _, certificate := range c.config.Certificates {
		if group := c.config.Policies[orDefault(certificate.Policy)].Group; group != "" {
			members[group]++
		}
	}
	for name, each := range c.config.Policies {
		if each.Group != "" && members[each.Group] < 2 {
			c.report(join(join("policies", name), "group"), each.Group,
				fmt.Sprintf("a group of two certificates or more; this one has %d", members[each.Group]))
		}
	}
}
