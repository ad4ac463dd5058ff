package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"gopkg.in/yaml.v3"
)

// maxSize bounds what is read: a configuration of thousands of certificates is about a megabyte.
const maxSize = 8 << 20

// tree reads a file's one YAML document into nodes and reports what is wrong with the YAML itself.
func tree(file string, data []byte) (*yaml.Node, Problems) {
	if len(data) > maxSize {
		return nil, Problems{{File: file, Value: fmt.Sprintf("%d bytes", len(data)), Want: "at most 8 MiB"}}
	}
	data, problems := withoutTabs(file, data)
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document yaml.Node
	if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
		return nil, append(problems, Problem{File: file, Want: "a configuration; the file is empty"})
	} else if err != nil {
		return nil, append(problems, syntax(file, err))
	}
	var further yaml.Node
	if err := decoder.Decode(&further); err == nil {
		problems = append(problems, Problem{File: file, Line: further.Line, Value: "---", Want: "one document per file"})
	} else if !errors.Is(err, io.EOF) {
		problems = append(problems, syntax(file, err))
	}
	if len(document.Content) != 1 || document.Content[0].Kind != yaml.MappingNode {
		return nil, append(problems, Problem{File: file, Line: document.Line, Value: describe(&document), Want: "a mapping such as \"certificates:\""})
	}
	root := document.Content[0]
	lint := linter{file: file, problems: problems}
	lint.node("", root)
	return root, lint.problems
}

// withoutTabs reports tabs in indentation and replaces them, so that the rest can still be checked.
func withoutTabs(file string, data []byte) ([]byte, Problems) {
	var problems Problems
	lines := bytes.Split(data, []byte("\n"))
	for i, line := range lines {
		indent := line[:len(line)-len(bytes.TrimLeft(line, " \t"))]
		if len(indent) == len(line) || line[len(indent)] == '#' || !bytes.ContainsRune(indent, '\t') {
			continue
		}
		problems = append(problems, Problem{File: file, Line: i + 1, Value: string(indent) + "...", Want: "spaces for indentation, no tabs"})
		lines[i] = append(bytes.ReplaceAll(indent, []byte("\t"), []byte("  ")), line[len(indent):]...)
	}
	if len(problems) == 0 {
		return data, nil
	}
	return bytes.Join(lines, []byte("\n")), problems
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// syntax turns the parser's error into a problem.
func syntax(file string, err error) Problem {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	problem := Problem{File: file}
	if match := yamlLine.FindStringSubmatch(text); match != nil {
		problem.Line, _ = strconv.Atoi(match[1])
		text = strings.Replace(text, match[0], "", 1)
	}
	problem.Value, problem.Want = text, "well-formed YAML"
	return problem
}

// linter finds what no part of the configuration may contain.
type linter struct {
	file     string
	problems Problems
}

// add reports a problem at a node.
func (l *linter) add(path string, node *yaml.Node, value, want string) {
	l.problems = append(l.problems, Problem{File: l.file, Line: node.Line, Field: path, Value: value, Want: want})
}

// node checks a node and everything below it.
func (l *linter) node(path string, node *yaml.Node) {
	if node.Anchor != "" {
		l.add(path, node, "&"+node.Anchor, "the value itself; anchors and aliases are not supported")
	}
	switch node.Kind {
	case yaml.AliasNode:
		l.add(path, node, "*"+node.Value, "the value itself; anchors and aliases are not supported")
	case yaml.SequenceNode:
		for i, item := range node.Content {
			l.node(fmt.Sprintf("%s[%d]", path, i), item)
		}
	case yaml.MappingNode:
		l.mapping(path, node)
	case yaml.ScalarNode:
		l.scalar(path, node)
	}
}

// mapping checks a mapping's keys and descends.
func (l *linter) mapping(path string, node *yaml.Node) {
	first := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		field := join(path, key.Value)
		switch line, repeated := first[key.Value]; {
		case key.Kind != yaml.ScalarNode:
			l.add(path, key, describe(key), "a name as the key")
		case key.Tag == "!!merge":
			l.add(path, key, key.Value, "the fields themselves; merge keys are not supported")
		case repeated:
			l.add(field, key, key.Value, fmt.Sprintf("each key once; line %d has it already", line))
		default:
			first[key.Value] = key.Line
		}
		l.node(field, value)
	}
}

// scalar refuses secrets: a configuration is shown, diffed and committed. The value is taken out of the
// tree, so that no later message can repeat it.
func (l *linter) scalar(path string, node *yaml.Node) {
	var want string
	switch {
	case strings.Contains(node.Value, "PRIVATE KEY-----"):
		want = "the name of a file; secrets never stand in the configuration"
	case userinfo.MatchString(node.Value):
		want = "an address without a password; secrets never stand in the configuration"
	default:
		return
	}
	l.add(path, node, redacted, want)
	node.Value = redacted
}

// redacted stands for a value that may be a secret and must not be repeated in a message.
const redacted = "(not shown)"

// userinfo matches a URL that carries a password.
var userinfo = regexp.MustCompile(`^[a-zA-Z][a-zA-Z0-9+.-]*://[^/?#\s]*:[^/?#\s]*@`)

// describe names what kind of thing a node is.
func describe(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "*" + node.Value
	case yaml.DocumentNode:
		if len(node.Content) == 1 {
			return describe(node.Content[0])
		}
		return "nothing"
	}
	return node.Value
}

// join appends a key to a path.
func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}
