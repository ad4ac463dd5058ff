package demo

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"text/template"

	"castellan.dev/internal/state"
)

// The targets of the show.
const (
	payments = "payments"
	orders   = "orders"
	auditor  = "auditor"
	monitor  = "monitor"
)

func targets() []string { return []string{orders, payments, auditor, monitor} }

// straggling is the replica of payments that reloads late.
const straggling = "payments-2"

// configuration is the castellan.yaml of the show. The consumer payments-2 reloads only some seconds
// after its files changed; canaryGrace makes the first look short, so that it is named by then.
var configuration = template.Must(template.New("castellan.yaml").Parse(`# Written by castellan-dev demo.
issuers:
  internal: {kind: embedded}

policies:
  # Two minutes' life: the services' certificates are rotated over and over while one watches.
  orders: {renewBefore: 95s, jitter: 3s}
  payments: {renewBefore: 84s, jitter: 3s}
  default: {renewAt: 2/3}

schedules:
  sweep: {every: 5s, jitter: 1s}

ledger:
  checkpoints: {every: 20s}

certificates:
  payments:
    issuer: internal
    policy: payments
    owner: the payments team
    dnsNames: [payments.internal]
    ipAddresses: [127.0.0.1]
    usage: both
    lifetime: 2m
    canary: 1
    canaryGrace: 5s
    deliveries:
      - {name: payments-1, kind: files, directory: "{{.Served "payments-1"}}"}
      - {name: payments-2, kind: files, directory: "{{.Served "payments-2"}}"}
    consumers:
{{- range .Payments}}
      - name: {{.Name}}
        kind: tls
        delivery: [{{.Name}}]
        addresses: ["{{.Address}}"]
        serverName: payments.internal
        exchange: http
        identity: {combinedFile: "{{$.Combined "monitor"}}"}
{{- end}}

  orders:
    issuer: internal
    policy: orders
    owner: the orders team
    dnsNames: [orders.internal]
    ipAddresses: [127.0.0.1]
    usage: both
    lifetime: 2m
    canaryGrace: 5s
    deliveries:
      - {name: files, kind: files, directory: "{{.Served "orders"}}"}
    consumers:
      - {name: orders, kind: tls, addresses: ["{{.Orders}}"], serverName: orders.internal, exchange: http}

  # Presented to payments, which checks the issuer's revocation list for every connection.
  auditor:
    issuer: internal
    dnsNames: [auditor.internal]
    usage: client
    lifetime: 1h
    canaryGrace: 5s
    deliveries:
      - {name: file, kind: files, layout: combined, path: "{{.Combined "auditor"}}"}
    consumers:
      - name: auditor
        kind: tls
        mode: client
        addresses: ["{{(index .Payments 0).Address}}"]
        serverName: payments.internal
        exchange: http
        presents: {combinedFile: "{{.Combined "auditor"}}"}
    peers:
      - name: payments
        kind: tls
        addresses: [{{range $i, $p := .Payments}}{{if $i}}, {{end}}"{{$p.Address}}"{{end}}]
        serverName: payments.internal
        exchange: http

  # What castellan itself shows to payments when it looks at its certificate.
  monitor:
    issuer: internal
    dnsNames: [monitor.internal]
    usage: client
    lifetime: 1h
    canaryGrace: 5s
    deliveries:
      - {name: file, kind: files, layout: combined, path: "{{.Combined "monitor"}}"}
    consumers:
      - name: monitor
        kind: tls
        mode: client
        addresses: ["{{(index .Payments 0).Address}}"]
        serverName: payments.internal
        exchange: http
        presents: {combinedFile: "{{.Combined "monitor"}}"}
`))

// layout is where everything of one show lies: castellan's own state directory, and below it a folder
// with what belongs to the services.
type layout struct {
	state state.Dir
	fresh bool // made for this show, and removed after it
}

// newLayout makes the directories. A directory that is named must be empty, because the show starts
// from nothing.
func newLayout(dir string) (layout, error) {
	l := layout{state: state.Dir(dir)}
	if dir == "" {
		made, err := os.MkdirTemp("", "castellan-demo-")
		if err != nil {
			return l, fmt.Errorf("make state directory: %w", err)
		}
		l.state, l.fresh = state.Dir(made), true
	} else {
		absolute, err := filepath.Abs(dir)
		if err != nil {
			return l, fmt.Errorf("find state directory: %w", err)
		}
		l.state = state.Dir(absolute)
		if err := l.state.Make(); err != nil {
			return l, err
		}
		entries, err := os.ReadDir(absolute)
		if err != nil {
			return l, fmt.Errorf("read state directory: %w", err)
		}
		if len(entries) > 0 {
			return l, fmt.Errorf("state directory %s is not empty: the demo starts from nothing, name another one", absolute)
		}
	}
	var failed error
	for _, name := range []string{l.logs(), l.served("")} {
		failed = errors.Join(failed, os.MkdirAll(name, 0o700))
	}
	return l, failed
}

// remove removes what was made for this show.
func (l layout) remove() error {
	if !l.fresh {
		return nil
	}
	return os.RemoveAll(string(l.state))
}

func (l layout) path(names ...string) string {
	return filepath.Join(append([]string{string(l.state), "demo"}, names...)...)
}

func (l layout) logs() string                { return l.path("logs") }
func (l layout) served(name string) string   { return l.path("served", name) }
func (l layout) pair(name string) string     { return l.path("served", name, "current") }
func (l layout) combined(name string) string { return l.path("served", name+".pem") }
func (l layout) evidence(name string) string { return l.path("evidence-" + name + ".jsonl") }

// addresses are the listening sockets of the services. They are opened before anything else, because the
// configuration names their addresses, and handed to the services, so that no port is ever lost.
type addresses struct{ orders, payments1, payments2 *net.TCPListener }

func listen() (addresses, error) {
	var a addresses
	for _, into := range []**net.TCPListener{&a.orders, &a.payments1, &a.payments2} {
		listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			a.close()
			return a, fmt.Errorf("listen for the services: %w", err)
		}
		*into = listener
	}
	return a, nil
}

func (a addresses) close() {
	for _, listener := range []*net.TCPListener{a.orders, a.payments1, a.payments2} {
		if listener != nil {
			listener.Close()
		}
	}
}

// replica is one address of payments, as the configuration names it.
type replica struct{ Name, Address string }

// settings is what the template asks for.
type settings struct {
	layout   layout
	Orders   string
	Payments []replica
}

// Served returns a delivery's directory.
func (s settings) Served(name string) string { return s.layout.served(name) }

// Combined returns the path of a client's certificate.
func (s settings) Combined(name string) string { return s.layout.combined(name) }

// write writes castellan.yaml into the state directory.
func (l layout) write(a addresses) error {
	var text bytes.Buffer
	err := configuration.Execute(&text, settings{layout: l, Orders: a.orders.Addr().String(), Payments: []replica{
		{"payments-1", a.payments1.Addr().String()}, {straggling, a.payments2.Addr().String()},
	}})
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	if err := os.WriteFile(l.state.Config(), text.Bytes(), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	return nil
}
