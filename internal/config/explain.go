package config

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"castellan.dev/internal/policy"
)

// Explain prints what was understood: every setting that has an effect, defaults marked as such, and
// what each certificate's policy means in sentences.
func (c *Config) Explain(w io.Writer) error {
	e := explainer{config: c}
	e.setting("environment", string(c.Environment), "environment")
	e.setting("state", cmp.Or(c.State, "the --state flag"), "state")
	e.engine()
	e.setting("store", kindOr(c.Store, "embedded file store"), "store")
	e.setting("database", kindOr(c.Database, "embedded SQLite"), "database")
	e.codec()
	e.setting("ledger key", cmp.Or(c.Ledger.KeyFile, "made in the state directory"), "ledger.keyFile")
	e.setting("ledger address", cmp.Or(c.Ledger.URL, "the listening address"), "ledger.url")
	e.setting("checkpoints", cmp.Or(c.Ledger.Checkpoints.Directory, "in the state directory"), "ledger.checkpoints.directory")
	e.setting("checkpoint every", policy.FormatDuration(c.Ledger.Checkpoints.Every), "ledger.checkpoints.every")
	e.setting("api", c.API.Listen, "api.listen")
	e.setting("api address", cmp.Or(c.API.PublicURL, "the listening address"), "api.publicURL")
	e.setting("identities", cmp.Or(c.API.IdentityDir, "in the state directory"), "api.identityDir")
	e.setting("users", cmp.Or(c.API.Login.UsersFile, "in the state directory"), "api.login.usersFile")
	e.setting("login lasts", policy.FormatDuration(c.API.Login.Session), "api.login.session")
	e.setting("metrics", cmp.Or(c.Telemetry.Metrics.Listen, "not served"), "telemetry.metrics.listen")
	e.setting("traces", cmp.Or(c.Telemetry.Traces.Endpoint, "not sent"), "telemetry.traces.endpoint")
	e.setting("log", c.Telemetry.Log.Format+", "+c.Telemetry.Log.Level, "telemetry.log")
	if len(c.Hosts) > 0 {
		e.setting("hosts", strings.Join(c.Hosts, ", "), "hosts")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Issuers)) {
		e.printf("issuer %s: %s", name, c.Issuers[name].Kind())
	}
	for _, name := range c.Targets() {
		e.certificate(name, c.Certificates[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.Schedules)) {
		e.schedule(name, c.Schedules[name])
	}
	_, err := io.WriteString(w, e.text.String())
	return err
}

// explainer collects the text.
type explainer struct {
	config *Config
	text   strings.Builder
}

// printf writes one line.
func (e *explainer) printf(format string, args ...any) {
	fmt.Fprintf(&e.text, format+"\n", args...)
}

// setting writes one setting and whether it is a default.
func (e *explainer) setting(name, value, field string) {
	e.printf("%s: %s%s", name, value, e.byDefault(field))
}

// byDefault marks a value that does not stand in the file.
func (e *explainer) byDefault(field string) string {
	if e.config.Has(field) {
		return ""
	}
	return " (default)"
}

// kindOr names a section's kind, or what stands in for it.
func kindOr(section Section, absent string) string {
	return cmp.Or(section.Kind(), absent)
}

// engine explains the connection to the engine.
func (e *explainer) engine() {
	engine := e.config.Engine
	e.setting("engine", cmp.Or(engine.Address, "from Temporal's environment or profile"), "engine.address")
	e.setting("engine namespace", cmp.Or(engine.Namespace, "from Temporal's environment or profile"), "engine.namespace")
	switch tls := engine.TLS; {
	case tls.IdentityFile != "":
		e.printf("engine TLS: identity from %s", tls.IdentityFile)
	case tls.CertFile != "":
		e.printf("engine TLS: certificate from %s", tls.CertFile)
	case !tls.IsZero():
		e.printf("engine TLS: without a client certificate")
	}
	if engine.APIKeyFile != "" {
		e.printf("engine API key: from %s", engine.APIKeyFile)
	}
}

// codec explains where payload keys come from.
func (e *explainer) codec() {
	codec := e.config.Codec
	e.setting("codec keyring", cmp.Or(codec.KeyringFile, "made in the state directory"), "codec.keyringFile")
	if vault := codec.Vault; vault != nil {
		e.printf("codec keyring unwrapped by: %s, key %s of %s", vault.Address, vault.Key, vault.Transit)
	}
}

// certificate explains one target.
func (e *explainer) certificate(name string, certificate Certificate) {
	path := join("certificates", name)
	e.printf("certificate %s:", name)
	subject := slices.Concat(certificate.DNSNames, certificate.IPAddresses, certificate.URIs)
	e.printf("  for %s, common name %q%s", strings.Join(subject, ", "), certificate.CommonName, e.byDefault(join(path, "commonName")))
	lifetime := "the issuer's lifetime (default)"
	if certificate.Lifetime > 0 {
		lifetime = "lifetime " + policy.FormatDuration(certificate.Lifetime)
	}
	e.printf("  from issuer %s, %s%s key, %s%s certificate, %s", certificate.Issuer,
		certificate.Key, e.byDefault(join(path, "key")), certificate.Usage, e.byDefault(join(path, "usage")), lifetime)
	if certificate.Owner != "" {
		e.printf("  owner %s", certificate.Owner)
	}
	if certificate.Observe {
		e.printf("  observed only: nothing is changed")
	}
	e.policy(certificate)
	for _, delivery := range certificate.Deliveries {
		e.delivery(delivery)
	}
	if len(certificate.Deliveries) > 1 {
		e.printf("  canary: the first %d%s; rolled back when broken for %s%s", certificate.Canary, e.byDefault(join(path, "canary")),
			policy.FormatDuration(certificate.CanaryGrace), e.byDefault(join(path, "canaryGrace")))
	}
	for _, consumer := range certificate.Consumers {
		e.printf("  proves consumer %s (%s) of %s", consumer.Name, consumer.Kind, strings.Join(consumer.Delivery, ", "))
	}
	for _, peer := range certificate.Peers {
		e.printf("  on compromise: asks peer %s (%s) whether it refuses the previous certificate", peer.Name, peer.Kind)
	}
	if len(certificate.Consumers) == 0 {
		e.printf("  proves nothing: no consumer is declared")
	}
}

// policy explains when the certificate rotates.
func (e *explainer) policy(certificate Certificate) {
	name := orDefault(certificate.Policy)
	each, declared := e.config.Policies[name]
	from := fmt.Sprintf("policy %s", name)
	if !declared {
		from = "built-in policy (default)"
	}
	e.printf("  %s:", from)
	for _, sentence := range e.config.policy(each).Sentences() {
		e.printf("    %s", sentence)
	}
}

// delivery explains one delivery.
func (e *explainer) delivery(delivery Delivery) {
	where, reload := "any privileged worker", "programs notice by themselves"
	if delivery.Host != "" {
		where = delivery.Host
	}
	if delivery.Reload != nil {
		reload = "reload by " + delivery.Reload.Kind()
	}
	e.printf("  delivers to %s (%s) on %s, %s", delivery.Name, delivery.Kind, where, reload)
}

// schedule explains what a schedule overrides.
func (e *explainer) schedule(name string, schedule Schedule) {
	var parts []string
	add := func(label string, d time.Duration) {
		if d > 0 {
			parts = append(parts, label+" "+policy.FormatDuration(d))
		}
	}
	add("every", schedule.Every)
	add("jitter", schedule.Jitter)
	if schedule.Overlap != "" {
		parts = append(parts, "overlap "+schedule.Overlap)
	}
	add("catch-up", schedule.CatchUp)
	add("alarm without success for", schedule.SucceedWithin)
	e.printf("schedule %s: %s", name, cmp.Or(strings.Join(parts, ", "), "as declared"))
}
