package servicedb_test

import (
	"testing"

	"castellan.dev/activities"
	"castellan.dev/internal/servicedb"

	"github.com/google/go-cmp/cmp"
)

func TestConfigReportsEveryProblem(t *testing.T) {
	for name, test := range map[string]struct {
		config servicedb.Config
		want   []string // fields
	}{
		"a path is all that SQLite needs":         {config: servicedb.Config{Path: "service.db"}},
		"a file is all that PostgreSQL needs":     {config: servicedb.Config{Kind: "postgres", DSNFile: "dsn"}},
		"nothing at all":                          {want: []string{"path"}},
		"SQLite with a connection string only":    {config: servicedb.Config{Kind: "sqlite", DSNFile: "dsn"}, want: []string{"path", "dsnFile"}},
		"PostgreSQL with a path only":             {config: servicedb.Config{Kind: "postgres", Path: "service.db"}, want: []string{"dsnFile", "path"}},
		"an unknown kind":                         {config: servicedb.Config{Kind: "mysql", DSNFile: "dsn"}, want: []string{"kind"}},
		"a path that would be taken for settings": {config: servicedb.Config{Path: "service.db?_pragma=synchronous(OFF)"}, want: []string{"path"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			test.config.Check(func(field, value, want string) {
				if want == "" {
					t.Errorf("%s: no expectation", field)
				}
				got = append(got, field)
			})
			if d := cmp.Diff(test.want, got); d != "" {
				t.Errorf("fields (-want +got):\n%s", d)
			}
			if len(test.want) == 0 {
				return
			}
			if _, err := servicedb.Open(t.Context(), test.config); activities.KindOf(err) != activities.Invalid {
				t.Errorf("Open: %v, want invalid", err)
			}
		})
	}
}
