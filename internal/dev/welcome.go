package dev

import (
	"fmt"
	"io"
)

// FirstConfig is the configuration that a first start writes: an issuer, and an example to uncomment.
const FirstConfig = `# castellan-dev's configuration. ` + "`castellan config check --config FILE`" + ` explains what it understands.
issuers:
  internal:
    kind: embedded            # the certificate authority inside castellan-dev

policies:
  default:
    renewAt: 2/3              # of the lifetime
    jitter: 5%

# certificates:
#   payments:
#     issuer: internal
#     dnsNames: [payments.internal]
#     lifetime: 24h
#     deliveries:
#       - name: files
#         kind: files
#         directory: /srv/payments/tls          # current/tls.crt, current/tls.key, current/ca.crt
#         state: /var/lib/castellan/payments
#         reload: {kind: signal, pidFile: /run/payments.pid, signal: HUP}
#     consumers:
#       - {name: payments, kind: tls, addresses: ["payments.internal:8443"], serverName: payments.internal}
`

// Welcome prints where to look.
func (p *Process) Welcome(w io.Writer) {
	e := p.Endpoints()
	fmt.Fprintf(w, `castellan-dev is ready.
  web page   %s   (Temporal's Web UI below /temporal)
  API        %s
  Temporal   %s, namespace %s
  CA         %s
`, e.Web, e.API, e.Engine, e.Namespace, e.CA.URL)
	if at := p.telemetry.Address(); at != "" {
		fmt.Fprintf(w, "  metrics    http://%s/metrics\n", at)
	}
	if setup := p.site.Setup(); setup != "" {
		fmt.Fprintf(w, "\nNobody can sign in yet. This link makes the first user, once:\n  %s\n", setup)
	}
}
