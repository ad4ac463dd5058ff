package layout

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "castellan.dev/"

// pkg is what `go list` says of one package.
type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	Imports    []string
	GoFiles    []string
	Error      *struct{ Err string }
}

// list asks the go command.
func list(t *testing.T, args ...string) []pkg {
	t.Helper()
	command := exec.Command("go", append([]string{"list", "-e", "-json=ImportPath,Dir,Doc,Imports,GoFiles,Error"}, args...)...)
	command.Dir = "../.."
	var problems bytes.Buffer
	command.Stderr = &problems
	output, err := command.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", command, err, problems.String())
	}
	var all []pkg
	for decoder := json.NewDecoder(bytes.NewReader(output)); ; {
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all = append(all, p)
	}
}

// families are the folders below activities with vendors inside.
var families = []string{"deliver", "issue", "record", "rotate", "store", "verify"}

// place splits activities/<family>/<vendor>; ok is false elsewhere.
func place(path string) (family, vendor string, ok bool) {
	rest, found := strings.CutPrefix(path, module+"activities/")
	if !found {
		return "", "", false
	}
	parts := strings.Split(rest, "/")
	if len(parts) > 1 {
		vendor = parts[1]
	}
	return parts[0], vendor, true
}

// refused says why a package may not import another; empty means that it may.
func refused(from, to string) string {
	if !strings.HasPrefix(to, module) {
		return ""
	}
	layer := strings.SplitN(strings.TrimPrefix(from, module), "/", 2)[0]
	target := strings.SplitN(strings.TrimPrefix(to, module), "/", 2)[0]
	fromFamily, fromVendor, inActivities := place(from)
	toFamily, toVendor, toActivities := place(to)
	switch {
	case target == "cmd":
		return "nothing imports a command"
	case target == "testsuite" && layer != "testsuite":
		return "the test suite is imported by tests only"
	case layer == "workflows" && toActivities:
		return "a workflow imports contracts only"
	case layer == "workflows" && (target == "internal" || target == "workers" || target == "schedules"):
		return "a workflow imports contracts and the SDK only"
	case from == module+"activities" && target != "activities":
		return "contracts import nothing of castellan"
	case from == module+"activities" && toActivities:
		return "contracts import no family"
	case inActivities && (target == "workflows" || target == "workers" || target == "schedules"):
		return "an activity imports nothing above it"
	case inActivities && toActivities && fromVendor != "" && toVendor != "" && (fromFamily != toFamily || fromVendor != toVendor):
		return "vendors never import each other"
	case inActivities && toActivities && fromVendor == "" && toVendor != "":
		return "a family never imports its vendors"
	case layer == "schedules" && (target == "workers" || target == "workflows" || toActivities):
		return "schedules import contracts and the client only"
	case layer == "internal" && toActivities && toVendor != "" && !composes(from):
		return "plumbing knows no vendor"
	case layer == "internal" && target == "workers" && !composes(from):
		return "plumbing is below the workers"
	}
	return ""
}

// composes lists the packages that put a process together: they stand beside cmd, not below workers.
func composes(path string) bool {
	return slices.Contains([]string{"internal/dev", "internal/demo", "internal/installation", "internal/serve", "internal/rescue"}, strings.TrimPrefix(path, module))
}

// undocumented packages wait for their owner: one only keeps requirements in go.mod. The list only shrinks.
var undocumented = map[string]bool{"castellan.dev": true, module + "testsuite/conformance": true}

func TestImportsPointDownward(t *testing.T) {
	seen := 0
	for _, p := range list(t, "./...") {
		for _, imported := range p.Imports {
			seen++
			if why := refused(p.ImportPath, imported); why != "" {
				t.Errorf("%s imports %s: %s", p.ImportPath, imported, why)
			}
		}
	}
	if seen < 100 {
		t.Errorf("only %d imports were seen", seen)
	}
}

// The control: each line of the rule refuses what it is there for, and nothing ordinary.
func TestTheRuleRefuses(t *testing.T) {
	for _, c := range []struct {
		from, to string
		refused  bool
	}{
		{"workflows/rotation", "activities", false},
		{"workflows/rotation", "activities/store", true},
		{"workflows/rotation", "activities/issue/stepca", true},
		{"workflows/rotation", "internal/policy", true},
		{"activities/issue/stepca", "activities/deliver/files", true},
		{"activities/deliver/kubernetes", "activities/deliver/files", true},
		{"activities/deliver/files", "activities/deliver", false},
		{"activities/deliver", "activities/deliver/files", true},
		{"activities/rotate/tlscert", "activities/issue", false},
		{"activities/rotate/tlscert", "activities/issue/stepca", true},
		{"activities/rotate/tlscert", "workflows/rotation", true},
		{"activities", "activities/store", true},
		{"activities", "internal/secret", true},
		{"workers", "activities/issue/stepca", false},
		{"workers", "workflows/rotation", false},
		{"internal/ledger", "activities/store/file", true},
		{"internal/dev", "activities/store/file", false},
		{"internal/ledger", "testsuite/leak", true},
		{"schedules", "activities", false},
		{"schedules", "workflows/rotation", true},
	} {
		if why := refused(module+c.from, module+c.to); (why != "") != c.refused {
			t.Errorf("%s importing %s: refused %v (%s), want %v", c.from, c.to, why != "", why, c.refused)
		}
	}
}

func TestProductionLinksNoServer(t *testing.T) {
	heavy := []string{"go.temporal.io/server", "github.com/smallstep/certificates/authority", module + "internal/engine", module + "internal/ca", module + "internal/dev", module + "testsuite"}
	found := func(command string) []string {
		var linked []string
		for _, p := range list(t, "-deps", command) {
			for _, prefix := range heavy {
				if p.ImportPath == prefix || strings.HasPrefix(p.ImportPath, prefix+"/") {
					linked = append(linked, prefix)
				}
			}
		}
		slices.Sort(linked)
		return slices.Compact(linked)
	}
	if linked := found("./cmd/castellan"); len(linked) > 0 {
		t.Errorf("castellan links %q", linked)
	}
	// The control: castellan-dev links them, so the search finds them where they are.
	if linked := found("./cmd/castellan-dev"); !slices.Contains(linked, heavy[0]) || !slices.Contains(linked, heavy[1]) {
		t.Errorf("castellan-dev links %q, want the embedded servers among them", linked)
	}
}

func TestPackagesAreNounsWithADoc(t *testing.T) {
	for _, p := range list(t, "./...") {
		if len(p.GoFiles) == 0 {
			continue
		}
		name := filepath.Base(p.Dir)
		if slices.Contains([]string{"util", "utils", "common", "helpers", "misc"}, name) {
			t.Errorf("%s: the name says nothing", p.ImportPath)
		}
		if p.Doc == "" && !undocumented[p.ImportPath] {
			t.Errorf("%s has no doc comment", p.ImportPath)
		}
	}
}

func TestNothingRegistersItself(t *testing.T) {
	for _, p := range list(t, "./...") {
		for _, name := range p.GoFiles {
			parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Error(err)
				continue
			}
			if declaresInit(parsed) {
				t.Errorf("%s/%s has an init function", p.ImportPath, name)
			}
		}
	}
	control, err := parser.ParseFile(token.NewFileSet(), "control.go", "package control\nfunc init() {}\n", 0)
	if err != nil || !declaresInit(control) {
		t.Errorf("an init function was not found (%v)", err)
	}
}

func declaresInit(file *ast.File) bool {
	return slices.ContainsFunc(file.Decls, func(declaration ast.Decl) bool {
		function, ok := declaration.(*ast.FuncDecl)
		return ok && function.Recv == nil && function.Name.Name == "init"
	})
}

func TestEveryVendorIsInTheCatalogue(t *testing.T) {
	imported := map[string]bool{}
	for _, p := range list(t, "./workers") {
		for _, path := range p.Imports {
			imported[path] = true
		}
	}
	vendors := 0
	for _, family := range families {
		entries, err := os.ReadDir(filepath.Join("../../activities", family))
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if !entry.IsDir() || entry.Name() == "testdata" {
				continue
			}
			vendors++
			if path := fmt.Sprintf("%sactivities/%s/%s", module, family, entry.Name()); !imported[path] {
				t.Errorf("%s is in no zone: add its line to workers/catalogue.go", path)
			}
		}
	}
	if vendors == 0 {
		t.Error("no vendor was found")
	}
	// A family that this test does not know would not be looked at.
	entries, err := os.ReadDir("../../activities")
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.IsDir() && !slices.Contains(families, entry.Name()) {
			t.Errorf("activities/%s is a family that this test does not know", entry.Name())
		}
	}
}
