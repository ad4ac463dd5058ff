package reload_test

import (
	"slices"
	"testing"
	"time"

	"castellan.dev/activities/deliver/reload"
)

type checker interface {
	Check(report func(field, value, want string))
}

func wantNoProblems(t *testing.T, c checker) {
	t.Helper()
	c.Check(func(field, value, want string) { t.Errorf("%s: %q is refused: want %s", field, value, want) })
}

func TestConfigProblemsAreAllReported(t *testing.T) {
	for name, c := range map[string]struct {
		config checker
		want   []string
	}{
		"signal: nothing":                  {reload.SignalConfig{}, []string{"pidFile"}},
		"signal: one that ends a process":  {reload.SignalConfig{PIDFile: "/run/a.pid", Signal: "TERM"}, []string{"signal"}},
		"signal: all fields wrong":         {reload.SignalConfig{PIDFile: "a.pid", Signal: "9", Process: "bin/a"}, []string{"pidFile", "process", "signal"}},
		"signal: an executable by path":    {reload.SignalConfig{PIDFile: "/run/a.pid", Process: "/usr/sbin/a"}, nil},
		"systemd: a service":               {reload.SystemdConfig{Unit: "nginx@main.service", Action: "restart", Timeout: time.Second}, nil},
		"systemd: nothing":                 {reload.SystemdConfig{}, []string{"unit"}},
		"systemd: all fields wrong":        {reload.SystemdConfig{Unit: "nginx", Action: "stop", Timeout: -1}, []string{"action", "timeout", "unit"}},
		"systemd: a name with a slash":     {reload.SystemdConfig{Unit: "../nginx.service"}, []string{"unit"}},
		"http: https":                      {reload.HTTPConfig{URL: "https://a.example/reload", TokenFile: "/run/token", Accept: []int{202}}, nil},
		"http: loopback in clear":          {reload.HTTPConfig{URL: "http://127.0.0.1:8080/reload"}, nil},
		"http: nothing":                    {reload.HTTPConfig{}, []string{"url"}},
		"http: in clear over the network":  {reload.HTTPConfig{URL: "http://a.example/reload"}, []string{"url"}},
		"http: a password in the URL":      {reload.HTTPConfig{URL: "https://a:b@a.example/reload"}, []string{"url"}},
		"http: all other fields wrong":     {reload.HTTPConfig{URL: "https://a", RootsFile: "a", TokenFile: "b", Timeout: -1, Accept: []int{404}}, []string{"accept", "rootsFile", "timeout", "tokenFile"}},
		"http: a scheme that is not HTTP":  {reload.HTTPConfig{URL: "file:///etc/passwd"}, []string{"url"}},
		"http: a host that looks loopback": {reload.HTTPConfig{URL: "http://127.0.0.1.example/"}, []string{"url"}},
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
