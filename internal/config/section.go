package config

import (
	"reflect"
	"slices"

	"gopkg.in/yaml.v3"
)

// Section is a part of the configuration whose fields depend on its kind. It is decoded by whoever
// knows the kind; until then it is kept with its file and lines.
type Section struct {
	file  string
	path  string
	node  *yaml.Node
	kind  string
	known []string // keys that belong to the struct around the section, not to the kind
}

// newSection wraps a mapping.
func newSection(file, path string, node *yaml.Node) Section {
	section := Section{file: file, path: path, node: node, known: []string{"kind"}}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == "kind" && node.Content[i+1].Kind == yaml.ScalarNode && node.Content[i+1].Tag == "!!str" {
			section.kind = node.Content[i+1].Value
		}
	}
	return section
}

// IsZero reports whether the configuration does not have the section.
func (s Section) IsZero() bool { return s.node == nil }

// Kind returns the section's kind, empty if it has none.
func (s Section) Kind() string { return s.kind }

// Path returns where the section stands, such as certificates.payments.deliveries[0].
func (s Section) Path() string { return s.path }

// Line returns the line at which the section begins, 0 for one that is not in the file.
func (s Section) Line() int {
	if s.node == nil {
		return 0
	}
	return s.node.Line
}

// checker is implemented by configurations that check their own fields.
type checker interface {
	Check(report func(field, value, want string))
}

// Decode fills the struct that into points to and reports every problem: unknown keys, wrong types,
// and whatever into's own Check reports about a field, placed on that field's line. Keys of the struct
// around the section (kind, name, host, reload, delivery) are passed only if into asks for them.
func (s Section) Decode(into any) Problems {
	d := decoder{file: s.file, lines: map[string]int{}}
	if s.node != nil {
		d.value(s.path, s.own(into), reflect.ValueOf(into).Elem())
	}
	if check, ok := into.(checker); ok {
		check.Check(func(field, value, want string) {
			path := join(s.path, field)
			if !d.reported(path) {
				d.add(path, d.line(path), value, want)
			}
		})
	}
	return d.problems.sorted()
}

// reported reports whether a field has a problem already: one whose type is wrong looks missing to
// the checks that follow.
func (d *decoder) reported(path string) bool {
	return slices.ContainsFunc(d.problems, func(p Problem) bool { return p.Field == path })
}

// own returns the section's mapping without the keys that belong to the struct around it.
func (s Section) own(into any) *yaml.Node {
	var asked map[string][]int
	if t := reflect.TypeOf(into).Elem(); t.Kind() == reflect.Struct {
		asked = fieldsOf(t).index
	}
	own := *s.node
	own.Content = nil
	for i := 0; i+1 < len(s.node.Content); i += 2 {
		key := s.node.Content[i]
		if _, wanted := asked[key.Value]; wanted || !slices.Contains(s.known, key.Value) {
			own.Content = append(own.Content, key, s.node.Content[i+1])
		}
	}
	return &own
}
