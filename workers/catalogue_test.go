package workers

import (
	"strings"
	"testing"

	"castellan.dev/internal/config"
)

func TestExampleConfigurationIsValid(t *testing.T) {
	cfg, problems := config.Load("../docs/castellan.example.yaml")
	if problems.Err() != nil {
		t.Fatal(problems)
	}
	if problems := cfg.Check(Catalogue()); problems.Err() != nil {
		t.Fatal(problems)
	}
}

func TestEveryKindIsCheckedAtOnce(t *testing.T) {
	const text = `
issuers:
  a: {kind: step-ca, url: "http://ca", provisioner: p}
certificates:
  x:
    issuer: a
    dnsNames: [x.example]
    deliveries:
      - {name: one, kind: files, directory: relative}
      - {name: two, kind: carrier-pigeon}
    consumers:
      - {name: c, kind: tls, addresses: [nowhere]}
`
	cfg, problems := config.Parse("castellan.yaml", []byte(text), func(string) (string, bool) { return "", false })
	if cfg == nil {
		t.Fatal(problems)
	}
	got := append(problems, cfg.Check(Catalogue())...).Error()
	for _, field := range []string{"issuers.a.url", "issuers.a.root", "issuers.a.passwordFile", "deliveries[0].directory", "deliveries[1].kind", "consumers[0].addresses"} {
		if !strings.Contains(got, field) {
			t.Errorf("no problem is reported for %s in:\n%s", field, got)
		}
	}
}

func TestWavesPlaceEachConsumerAfterWhatItReads(t *testing.T) {
	cfg := config.Certificate{
		Deliveries: []config.Delivery{{Name: "canary"}, {Name: "rest"}},
		Consumers:  []config.Consumer{{Name: "early", Delivery: []string{"canary"}}, {Name: "all"}},
	}
	waves := wavesOf(cfg)
	if len(waves) != 2 || strings.Join(waves[0].Consumers, ",") != "early" || strings.Join(waves[1].Consumers, ",") != "all" {
		t.Errorf("got %+v", waves)
	}
}
