package config

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// files is a delivery's configuration as a vendor package would write it.
type files struct {
	Directory string        `yaml:"directory"`
	Mode      string        `yaml:"mode"`
	Keep      int           `yaml:"keep"`
	Wait      time.Duration `yaml:"wait"`
	Owner     struct {
		User  string `yaml:"user"`
		Group string `yaml:"group"`
	} `yaml:"owner"`
}

func (f *files) Check(report func(field, value, want string)) {
	if f.Directory == "" {
		report("directory", "", "an absolute path")
	}
	if f.Owner.User == "root" {
		report("owner.user", f.Owner.User, "any user but root")
	}
}

// service is a configuration that asks for a key of the struct around it.
type service struct {
	Name      string   `yaml:"name"`
	Address   string   `yaml:"address"`
	Addresses []string `yaml:"addresses"`
	Password  string   `yaml:"password"`
	TokenFile string   `yaml:"tokenFile"`
	URL       string   `yaml:"url"`
	PIDFile   string   `yaml:"pidFile"`
	Signal    string   `yaml:"signal"`
	Secret    string   `yaml:"secret"`
	Fast      bool     `yaml:"fast"`
}

// catalogue knows a few kinds, for tests.
func catalogue() Catalogue {
	plain := func() any { return &service{} }
	return Catalogue{
		Stores:     map[string]func() any{"file": func() any { return &files{} }, "vault": plain},
		Databases:  map[string]func() any{"sqlite": plain, "postgres": plain},
		Issuers:    map[string]func() any{"stepca": plain},
		Deliveries: map[string]func() any{"files": func() any { return &files{} }, "kubernetes": plain},
		Reloads:    map[string]func() any{"signal": plain, "http": plain},
		Consumers:  map[string]func() any{"tls": plain},
		Peers:      map[string]func() any{"tls": plain, "none": func() any { return &struct{}{} }},
	}
}

// parse returns the first delivery of a configuration.
func parse(t *testing.T, fields string) Delivery {
	t.Helper()
	c, problems := Parse("castellan.yaml", []byte(`
issuers: {main: {kind: stepca}}
certificates:
  payments:
    issuer: main
    dnsNames: [payments.example.com]
    deliveries:
      - `+fields+`
    consumers: [{kind: tls}]
`), environment)
	if err := problems.Err(); err != nil {
		t.Fatalf("problems:\n%v", err)
	}
	return c.Certificates["payments"].Deliveries[0]
}

func TestSectionDecodesWhatTheStructAroundItDoesNotKnow(t *testing.T) {
	delivery := parse(t, `{kind: files, name: web, directory: /etc/tls, mode: 0640, keep: 2, wait: 1d, owner: {user: www}}`)
	var got files
	if err := delivery.Rest.Decode(&got).Err(); err != nil {
		t.Fatal(err)
	}
	want := files{Directory: "/etc/tls", Mode: "0640", Keep: 2, Wait: 24 * time.Hour}
	want.Owner.User = "www"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("decoded (-want +got):\n%s", diff)
	}
	if delivery.Rest.Kind() != "files" || delivery.Name != "web" {
		t.Errorf("kind %q, name %q, want files, web", delivery.Rest.Kind(), delivery.Name)
	}
}

func TestSectionPassesACommonKeyToAKindThatAsksForIt(t *testing.T) {
	var got service
	if err := parse(t, `{kind: kubernetes, name: web}`).Rest.Decode(&got).Err(); err != nil {
		t.Fatal(err)
	}
	if got.Name != "web" {
		t.Errorf("name = %q, want web", got.Name)
	}
}

func TestSectionReportsStructureAndChecksTogetherEachOnItsLine(t *testing.T) {
	delivery := parse(t, `kind: files
        mode: 6.40
        keep: many
        owner:
          grup: www
          user: root
`)
	got := delivery.Rest.Decode(&files{}).Error()
	want := `castellan.yaml:8: certificates.payments.deliveries[0].directory: missing, want an absolute path
castellan.yaml:9: certificates.payments.deliveries[0].mode: got "6.40", want text; write it in quotes
castellan.yaml:10: certificates.payments.deliveries[0].keep: got "many", want a whole number
castellan.yaml:12: certificates.payments.deliveries[0].owner.grup: got "grup", want a known field; did you mean "group"?
castellan.yaml:13: certificates.payments.deliveries[0].owner.user: got "root", want any user but root`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func TestAbsentSectionStillRunsTheKindsOwnChecks(t *testing.T) {
	if problems := (Section{}).Decode(&files{}); len(problems) != 1 {
		t.Errorf("problems = %v, want the missing directory", problems)
	}
}
