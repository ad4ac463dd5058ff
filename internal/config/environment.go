package config

import (
	"fmt"
	"regexp"
	"strings"

	"gopkg.in/yaml.v3"
)

// addresses lists the only fields in which environment variables are expanded. A star stands for one
// key. Everything else must be readable in the file itself, so that two processes with the same file
// do the same.
func addresses() []string {
	return []string{
		"engine.address",
		"codec.vault.address",
		"store.address", "store.url",
		"database.address", "database.url",
		"ledger.url",
		"api.listen", "api.publicURL",
		"telemetry.metrics.listen", "telemetry.traces.endpoint",
		"issuers.*.address", "issuers.*.url",
	}
}

var (
	reference     = regexp.MustCompile(`\$\{[^}]*\}?`)
	fullReference = regexp.MustCompile(`^\$\{(CASTELLAN_[A-Z0-9_]+)\}$`)
)

// expander replaces references to environment variables.
type expander struct {
	file     string
	lookup   func(name string) (string, bool)
	allowed  map[string]bool
	problems Problems
}

// expand replaces references in the tree and reports those that may not stand where they do.
func expand(file string, root *yaml.Node, lookup func(string) (string, bool)) Problems {
	e := expander{file: file, lookup: lookup, allowed: map[string]bool{}}
	for _, path := range addresses() {
		e.allowed[path] = true
	}
	e.node("", root)
	return e.problems
}

// node expands a node and everything below it. Only scalars reached through mappings can be allowed.
func (e *expander) node(path string, node *yaml.Node) {
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			e.node(join(path, node.Content[i].Value), node.Content[i+1])
		}
	case yaml.SequenceNode:
		for i, item := range node.Content {
			e.node(fmt.Sprintf("%s[%d]", path, i), item)
		}
	case yaml.ScalarNode:
		if strings.Contains(node.Value, "${") {
			e.scalar(path, node)
		}
	}
}

// scalar expands one value.
func (e *expander) scalar(path string, node *yaml.Node) {
	report := func(want string) {
		e.problems = append(e.problems, Problem{File: e.file, Line: node.Line, Field: path, Value: node.Value, Want: want})
	}
	if !e.allowed[path] && !e.allowed[starred(path)] {
		report("the value itself; environment variables are for addresses only")
		return
	}
	node.Value = reference.ReplaceAllStringFunc(node.Value, func(text string) string {
		match := fullReference.FindStringSubmatch(text)
		if match == nil {
			report("a reference such as ${CASTELLAN_ENGINE_ADDRESS}")
			return text
		}
		value, ok := e.lookup(match[1])
		if !ok || value == "" {
			report(fmt.Sprintf("the environment variable %s to be set", match[1]))
			return text
		}
		if userinfo.MatchString(value) {
			report("an address without a password in " + match[1])
			return text
		}
		return value
	})
}

// starred replaces the second of three keys by a star: issuers.main.url becomes issuers.*.url.
func starred(path string) string {
	first, rest, ok := strings.Cut(path, ".")
	if !ok {
		return path
	}
	last := strings.LastIndex(rest, ".")
	if last < 0 {
		return path
	}
	return first + ".*" + rest[last:]
}
