package config

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite golden files")

// environment is what references to environment variables find in tests.
func environment(name string) (string, bool) {
	value, ok := map[string]string{
		"CASTELLAN_ENGINE_ADDRESS": "temporal.example.com:7233",
		"CASTELLAN_LEAKY":          "https://user:hunter2@example.com",
	}[name]
	return value, ok
}

// Each case of testdata/bad.txtar is a configuration, named by what is wrong with it, followed by the
// problems that must be reported: all of them and no other.
func TestBadConfigurations(t *testing.T) {
	archive, err := txtar.ParseFile("testdata/bad.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(archive.Files); i += 2 {
		input, golden := archive.Files[i], &archive.Files[i+1]
		t.Run(input.Name, func(t *testing.T) {
			if golden.Name != "problems" {
				t.Fatalf("case is followed by %q, want \"problems\"", golden.Name)
			}
			c, problems := Parse("castellan.yaml", bytes.ReplaceAll(input.Data, []byte("⇥"), []byte("\t")), environment)
			problems = append(problems, c.Check(catalogue())...)
			got := problems.Error() + "\n"
			if len(problems) == 0 {
				t.Error("no problem was found")
			}
			if *update {
				golden.Data = []byte(got)
				return
			}
			if diff := cmp.Diff(string(golden.Data), got); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
			if strings.Contains(got, "hunter2") {
				t.Errorf("a secret is repeated in a message:\n%s", got)
			}
		})
	}
	if *update {
		if err := os.WriteFile("testdata/bad.txtar", txtar.Format(archive), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestGoodConfigurationIsExplainedWithItsDefaults(t *testing.T) {
	for _, name := range []string{"full", "minimal"} {
		t.Run(name, func(t *testing.T) {
			data, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
			if err != nil {
				t.Fatal(err)
			}
			c, problems := Parse(name+".yaml", data, environment)
			problems = append(problems, c.Check(catalogue())...)
			if err := problems.Err(); err != nil {
				t.Fatalf("problems:\n%v", err)
			}
			var got bytes.Buffer
			if err := c.Explain(&got); err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".explained")
			if *update {
				if err := os.WriteFile(golden, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("explanation (-want +got):\n%s", diff)
			}
		})
	}
}

func TestLoadNamesAFileThatCannotBeRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "absent.yaml")
	_, problems := Load(path)
	if len(problems) != 1 || problems[0].File != path {
		t.Errorf("problems = %v, want one about %s", problems, path)
	}
}

func TestLoadReadsAFile(t *testing.T) {
	c, problems := Load("testdata/minimal.yaml")
	if err := problems.Err(); err != nil {
		t.Fatalf("problems:\n%v", err)
	}
	if got := c.Certificates["payments"].CommonName; got != "payments.example.com" {
		t.Errorf("common name = %q, want the first DNS name", got)
	}
}

func TestRequireReportsEachFieldThatTheFileLacks(t *testing.T) {
	c, _ := Parse("castellan.yaml", []byte("ledger: {keyFile: /k}\n"), environment)
	got := c.Require("serve in production needs it", "ledger.keyFile", "store", "codec.keyringFile").Error()
	want := "castellan.yaml: store: missing, want a value, serve in production needs it\n" +
		"castellan.yaml: codec.keyringFile: missing, want a value, serve in production needs it"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

// FuzzParse feeds arbitrary bytes: nothing may panic, and a configuration without problems can be
// checked, resolved and explained.
func FuzzParse(f *testing.F) {
	for _, name := range []string{"full", "minimal"} {
		data, err := os.ReadFile(filepath.Join("testdata", name+".yaml"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	archive, err := txtar.ParseFile("testdata/bad.txtar")
	if err != nil {
		f.Fatal(err)
	}
	for i := 0; i < len(archive.Files); i += 2 {
		f.Add(bytes.ReplaceAll(archive.Files[i].Data, []byte("⇥"), []byte("\t")))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, problems := Parse("fuzz.yaml", data, environment)
		for _, problem := range problems {
			if problem.Want == "" || problem.File == "" {
				t.Errorf("problem %+v lacks file or expectation", problem)
			}
		}
		c.Check(catalogue())
		if problems.Err() != nil {
			return
		}
		for _, target := range c.Targets() {
			if _, err := c.PolicyOf(target); err != nil {
				t.Errorf("resolve policy: %v", err)
			}
		}
		if err := c.Explain(&bytes.Buffer{}); err != nil {
			t.Errorf("explain: %v", err)
		}
	})
}
