package files_test

import (
	"slices"
	"testing"
	"time"

	"castellan.dev/activities/deliver/files"
)

func TestConfigProblemsAreAllReported(t *testing.T) {
	for name, c := range map[string]struct {
		config files.Config
		want   []string // fields, sorted
	}{
		"a directory is enough": {config: files.Config{Directory: "/etc/tls"}},
		"a combined file is enough": {config: files.Config{Layout: files.Combined, Path: "/etc/tls.pem",
			Order: files.KeyFirst, IncludeBundle: true, Mode: "0644", KeyMode: "0640", Owner: "root", Group: "0"}},
		"two plain paths must be declared non-atomic": {
			config: files.Config{Layout: files.Plain, Certificate: "/etc/a.crt", Key: "/etc/a.key"}, want: []string{"nonAtomic"},
		},
		"two plain paths that are declared": {
			config: files.Config{Layout: files.Plain, Certificate: "/etc/a.crt", Key: "/etc/a.key", NonAtomic: true},
		},
		"an atomic layout is not non-atomic": {
			config: files.Config{Directory: "/etc/tls", NonAtomic: true}, want: []string{"nonAtomic"},
		},
		"nothing":           {want: []string{"directory"}},
		"an unknown layout": {config: files.Config{Layout: "both"}, want: []string{"layout"}},
		"relative and unclean paths": {
			config: files.Config{Directory: "etc/tls", State: "/var/../state"}, want: []string{"directory", "state"},
		},
		"a state directory that is served": {
			config: files.Config{Directory: "/etc/tls", State: "/etc/tls/state"}, want: []string{"state"},
		},
		"a state directory beside a combined file": {
			config: files.Config{Layout: files.Combined, Path: "/etc/tls/a.pem", State: "/etc/tls"}, want: []string{"state"},
		},
		"names with slashes or twice the same": {
			config: files.Config{Directory: "/etc/tls", Certificate: "a/b", Key: "x", Bundle: "x"}, want: []string{"certificate", "certificate"},
		},
		"a key that others may read": {
			config: files.Config{Directory: "/etc/tls", KeyMode: "0644"}, want: []string{"keyMode"},
		},
		"a key that its group may write": {
			config: files.Config{Directory: "/etc/tls", KeyMode: "0660"}, want: []string{"keyMode"},
		},
		"modes that are none": {
			config: files.Config{Directory: "/etc/tls", Mode: "rw", KeyMode: "7777"}, want: []string{"keyMode", "mode"},
		},
		"fields of another layout": {
			config: files.Config{Layout: files.Combined, Path: "/a.pem", Directory: "/etc/tls", Key: "k"}, want: []string{"directory", "key"},
		},
		"a wait into the past": {
			config: files.Config{Directory: "/etc/tls", LockWait: -time.Second}, want: []string{"lockWait"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			c.config.Check(func(field, _, want string) {
				got = append(got, field)
				if want == "" {
					t.Errorf("%s: says nothing about what is expected", field)
				}
			})
			slices.Sort(got)
			if !slices.Equal(got, c.want) {
				t.Errorf("reported %v, want %v", got, c.want)
			}
		})
	}
}
