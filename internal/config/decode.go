package config

import (
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"castellan.dev/internal/policy"
	"gopkg.in/yaml.v3"
)

var (
	sectionType  = reflect.TypeFor[Section]()
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// decoder fills Go values from nodes by yaml tags. It never stops at a problem, and it remembers the
// line of every field so that checks made afterwards can point at it.
type decoder struct {
	file     string
	lines    map[string]int
	problems Problems
}

// add reports a problem. The value of a field that may be secret is not repeated.
func (d *decoder) add(path string, line int, value, want string) {
	if secretive(path) && value != "" {
		value = redacted
	}
	d.problems = append(d.problems, Problem{File: d.file, Line: line, Field: path, Value: value, Want: want})
}

// line returns the line of a field, or of the nearest field around it.
func (d *decoder) line(path string) int {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return line
		}
		path = path[:max(strings.LastIndexAny(path, ".["), 0)]
	}
	return d.lines[""]
}

// value decodes a node into v.
func (d *decoder) value(path string, node *yaml.Node, v reflect.Value) {
	d.lines[path] = node.Line
	if node.Kind == yaml.AliasNode || node.Tag == "!!null" {
		return // an alias was reported already; an empty field counts as missing
	}
	if v.Type() == sectionType {
		d.section(path, node, v)
		return
	}
	if v.Type() == durationType {
		d.duration(path, node, v)
		return
	}
	if v.CanAddr() && v.Addr().Type().Implements(textType) {
		d.text(path, node, v.Addr().Interface().(encoding.TextUnmarshaler))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		pointed := reflect.New(v.Type().Elem())
		d.value(path, node, pointed.Elem())
		v.Set(pointed)
	case reflect.Struct:
		d.structure(path, node, v)
	case reflect.Map:
		d.mapping(path, node, v)
	case reflect.Slice:
		d.list(path, node, v)
	default:
		d.scalar(path, node, v)
	}
}

// section keeps a mapping for later.
func (d *decoder) section(path string, node *yaml.Node, v reflect.Value) {
	if node.Kind != yaml.MappingNode {
		d.add(path, node.Line, describe(node), "a mapping with the field kind")
		return
	}
	v.Set(reflect.ValueOf(newSection(d.file, path, node)))
}

// duration decodes a Go duration in which days may be written too.
func (d *decoder) duration(path string, node *yaml.Node, v reflect.Value) {
	parsed, err := policy.ParseDuration(node.Value)
	if err != nil || node.Kind != yaml.ScalarNode {
		d.add(path, node.Line, describe(node), "a duration such as 720h or 30d")
		return
	}
	v.SetInt(int64(parsed))
}

// text decodes a scalar by the type's own rules; its error is phrased as an expectation.
func (d *decoder) text(path string, node *yaml.Node, into encoding.TextUnmarshaler) {
	if node.Kind != yaml.ScalarNode {
		d.add(path, node.Line, describe(node), "a single value")
		return
	}
	if err := into.UnmarshalText([]byte(node.Value)); err != nil {
		d.add(path, node.Line, node.Value, err.Error())
	}
}

// mapping decodes a mapping with free keys.
func (d *decoder) mapping(path string, node *yaml.Node, v reflect.Value) {
	if node.Kind != yaml.MappingNode || v.Type().Key().Kind() != reflect.String {
		d.add(path, node.Line, describe(node), "a mapping")
		return
	}
	v.Set(reflect.MakeMap(v.Type()))
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, item := node.Content[i], reflect.New(v.Type().Elem()).Elem()
		field := join(path, key.Value)
		d.value(field, node.Content[i+1], item)
		d.lines[field] = key.Line
		v.SetMapIndex(reflect.ValueOf(key.Value).Convert(v.Type().Key()), item)
	}
}

// list decodes a list.
func (d *decoder) list(path string, node *yaml.Node, v reflect.Value) {
	if node.Kind != yaml.SequenceNode {
		d.add(path, node.Line, describe(node), "a list")
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content)))
	for i, item := range node.Content {
		d.value(fmt.Sprintf("%s[%d]", path, i), item, v.Index(i))
	}
}

// scalar decodes text, numbers and booleans. Types are not converted into each other, with one
// exception that loses nothing: a whole number is taken as it is written where text is wanted, because
// modes (0640) and user ids look like that.
func (d *decoder) scalar(path string, node *yaml.Node, v reflect.Value) {
	wrong := func(want string) { d.add(path, node.Line, describe(node), want) }
	number := func(err error, want string) {
		if err != nil || node.Kind != yaml.ScalarNode {
			wrong(want)
		}
	}
	switch v.Kind() {
	case reflect.String:
		switch {
		case node.Kind != yaml.ScalarNode:
			wrong("text")
		case node.Tag != "!!str" && node.Tag != "!!timestamp" && node.Tag != "!!int":
			wrong("text; write it in quotes")
		case secretive(path) && !strings.HasSuffix(path, ".secret"): // secret is the name of a Kubernetes object
			wrong(byFile)
		default:
			v.SetString(node.Value)
		}
	case reflect.Bool:
		parsed := node.Value == "true"
		if node.Kind != yaml.ScalarNode || (!parsed && node.Value != "false") || node.Tag != "!!bool" {
			wrong("true or false")
		}
		v.SetBool(parsed)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		parsed, err := strconv.ParseInt(node.Value, 10, v.Type().Bits())
		number(err, "a whole number")
		v.SetInt(parsed)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		parsed, err := strconv.ParseUint(node.Value, 10, v.Type().Bits())
		number(err, "a whole number, not negative")
		v.SetUint(parsed)
	case reflect.Float32, reflect.Float64:
		parsed, err := strconv.ParseFloat(node.Value, v.Type().Bits())
		number(err, "a number")
		v.SetFloat(parsed)
	default:
		wrong(fmt.Sprintf("nothing: fields of type %s cannot be configured", v.Type()))
	}
}

// structure decodes a mapping with known keys. A struct with an inline Section keeps the keys that it
// does not know there, for whoever knows the kind.
func (d *decoder) structure(path string, node *yaml.Node, v reflect.Value) {
	if node.Kind != yaml.MappingNode {
		d.add(path, node.Line, describe(node), "a mapping")
		return
	}
	fields := fieldsOf(v.Type())
	names := make([]string, 0, len(fields.index))
	for name := range fields.index {
		names = append(names, name)
	}
	slices.Sort(names)
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, item := node.Content[i], node.Content[i+1]
		field := join(path, key.Value)
		index, known := fields.index[key.Value]
		switch {
		case known:
			d.value(field, item, v.FieldByIndex(index))
		case fields.rest == nil && key.Kind == yaml.ScalarNode && key.Tag != "!!merge":
			d.unknown(field, key, names)
		}
	}
	if fields.rest != nil {
		rest := newSection(d.file, path, node)
		rest.known = names
		v.FieldByIndex(fields.rest).Set(reflect.ValueOf(rest))
	}
}

// unknown reports a key that no field answers to.
func (d *decoder) unknown(field string, key *yaml.Node, names []string) {
	if secretive(field) {
		d.problems = append(d.problems, Problem{File: d.file, Line: key.Line, Field: field, Value: key.Value, Want: byFile})
		return
	}
	want := "a known field: " + strings.Join(names, ", ")
	if len(names) == 0 {
		want = "no such field: there is nothing to set"
	} else if meant := closest(key.Value, names); meant != "" {
		want = fmt.Sprintf("a known field; did you mean %q?", meant)
	}
	d.add(field, key.Line, key.Value, want)
}

// byFile is what is expected where a secret stands in the configuration.
const byFile = "a field that ends with File and names a file; secrets never stand in the configuration"

// secretive reports whether a field's name announces a secret rather than the file that holds one.
func secretive(path string) bool {
	name := strings.ToLower(path[strings.LastIndex(path, ".")+1:])
	for _, ending := range []string{"password", "passphrase", "token", "secret", "apikey", "privatekey", "credential", "credentials", "dsn"} {
		if strings.HasSuffix(name, ending) {
			return true
		}
	}
	return false
}

// fields maps the yaml names of a struct to its fields.
type fields struct {
	index map[string][]int
	rest  []int // the inline Section; nil if there is none
}

// fieldsOf reads a struct type's yaml tags the way yaml.v3 does.
func fieldsOf(t reflect.Type) fields {
	found := fields{index: map[string][]int{}}
	for i := range t.NumField() {
		field := t.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("yaml"), ",")
		inline := slices.Contains(strings.Split(options, ","), "inline")
		switch {
		case name == "-" || (!field.IsExported() && !inline):
		case inline && field.Type == sectionType:
			found.rest = []int{i}
		case inline && field.Type.Kind() == reflect.Struct:
			for inner, index := range fieldsOf(field.Type).index {
				found.index[inner] = append([]int{i}, index...)
			}
		default:
			if name == "" {
				name = strings.ToLower(field.Name)
			}
			found.index[name] = []int{i}
		}
	}
	return found
}
