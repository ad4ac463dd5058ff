package tlsprobe_test

import (
	"slices"
	"testing"
	"time"

	"castellan.dev/activities/verify/tlsprobe"
)

type checker interface {
	Check(report func(field, value, want string))
}

func TestConfigProblemsAreAllReported(t *testing.T) {
	addresses := tlsprobe.Endpoints{Addresses: []string{"a.example:443", "[::1]:443"}}
	pair := &tlsprobe.Identity{CertificateFile: "/a.crt", KeyFile: "/a.key"}
	for name, c := range map[string]struct {
		config checker
		want   []string
	}{
		"a server by address":        {tlsprobe.Config{Endpoints: addresses}, nil},
		"a server by another source": {tlsprobe.Config{}, nil},
		"a server with all fields": {tlsprobe.Config{Endpoints: tlsprobe.Endpoints{
			DNS: []string{"a.example:5432"}, Prelude: "postgres", Exchange: "postgres", RootsFile: "/ca.pem", ALPN: []string{"h2"},
			Timeout: time.Second, Quiet: time.Second, Concurrent: 8,
		}, Identity: pair}, nil},
		"a client by files and reports": {tlsprobe.Config{Mode: "client", Endpoints: addresses, Presents: pair,
			Reports: []string{"https://a.example/identity", "http://127.0.0.1/identity"}}, nil},
		"a client by nothing":              {tlsprobe.Config{Mode: "client"}, []string{"presents"}},
		"a client with nothing to present": {tlsprobe.Config{Mode: "client", Endpoints: addresses, Reports: []string{"https://a/"}}, []string{"addresses"}},
		"a mode that is none":              {tlsprobe.Config{Mode: "both"}, []string{"mode"}},
		"the other mode's fields":          {tlsprobe.Config{Presents: pair, Reports: []string{"https://a/"}}, []string{"presents", "reports"}},
		"the server mode's identity":       {tlsprobe.Config{Mode: "client", Presents: pair, Identity: pair}, []string{"identity"}},
		"half a pair":                      {tlsprobe.Config{Identity: &tlsprobe.Identity{CertificateFile: "/a.crt"}}, []string{"identity"}},
		"a pair and a combined file":       {tlsprobe.Config{Identity: &tlsprobe.Identity{CertificateFile: "/a", KeyFile: "/b", CombinedFile: "/c"}}, []string{"identity"}},
		"reports in clear, with a password": {tlsprobe.Config{Mode: "client", Reports: []string{"http://a.example/", "https://a:b@a.example/"}},
			[]string{"reports", "reports"}},
		"everything about endpoints wrong": {tlsprobe.Config{Endpoints: tlsprobe.Endpoints{
			Addresses: []string{"a.example", ":443", "a:0", "a:99999"}, DNS: []string{"127.0.0.1:443"}, Prelude: "ftp", Exchange: "gopher",
			RootsFile: "ca.pem", Timeout: -1, Quiet: time.Hour, Concurrent: 1000,
		}}, []string{"addresses", "addresses", "addresses", "addresses", "concurrent", "dns", "exchange", "prelude", "quiet", "rootsFile", "timeout"}},
		"a peer":                  {tlsprobe.PeerConfig{Endpoints: addresses, Wait: time.Minute}, nil},
		"a peer that is too slow": {tlsprobe.PeerConfig{Endpoints: addresses, Wait: time.Hour}, []string{"wait"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			c.config.Check(func(field, _, _ string) { got = append(got, field) })
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("reported %v, want %v", got, c.want)
			}
		})
	}
}
