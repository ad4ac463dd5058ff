package config

import (
	"fmt"
	"maps"
	"slices"
)

// Catalogue lists the kinds that exist. Each function returns a pointer to a fresh configuration
// struct of that kind, with yaml tags and, where fields need more than their type, a method
// Check(report func(field, value, want string)).
type Catalogue struct {
	Stores     map[string]func() any
	Databases  map[string]func() any
	Issuers    map[string]func() any
	Deliveries map[string]func() any
	Reloads    map[string]func() any
	Consumers  map[string]func() any
	Peers      map[string]func() any
}

// Check decodes every section by its kind and reports all problems.
func (c *Config) Check(catalogue Catalogue) Problems {
	problems := c.Store.check(catalogue.Stores)
	problems = append(problems, c.Database.check(catalogue.Databases)...)
	for _, name := range slices.Sorted(maps.Keys(c.Issuers)) {
		problems = append(problems, c.Issuers[name].check(catalogue.Issuers)...)
	}
	for _, name := range c.Targets() {
		certificate := c.Certificates[name]
		for _, delivery := range certificate.Deliveries {
			problems = append(problems, delivery.Rest.check(catalogue.Deliveries)...)
			if delivery.Reload != nil {
				problems = append(problems, delivery.Reload.check(catalogue.Reloads)...)
			}
		}
		for _, consumer := range certificate.Consumers {
			problems = append(problems, consumer.Rest.check(catalogue.Consumers)...)
		}
		for _, peer := range certificate.Peers {
			problems = append(problems, peer.Rest.check(catalogue.Peers)...)
		}
	}
	return problems.sorted()
}

// check decodes the section by its kind. A section that is absent or has no kind was reported by Load
// where that is a problem.
func (s Section) check(kinds map[string]func() any) Problems {
	if s.IsZero() || s.kind == "" {
		return nil
	}
	make, ok := kinds[s.kind]
	if !ok {
		problem := Problem{File: s.file, Line: s.line("kind"), Field: join(s.path, "kind"), Value: s.kind}
		problem.Want = oneOf(s.kind, slices.Sorted(maps.Keys(kinds)))
		return Problems{problem}
	}
	return s.Decode(make())
}

// line returns the line of one of the section's keys, or of the section.
func (s Section) line(key string) int {
	for i := 0; i+1 < len(s.node.Content); i += 2 {
		if s.node.Content[i].Value == key {
			return s.node.Content[i].Line
		}
	}
	return s.node.Line
}

// String identifies the section in logs; its values are not shown.
func (s Section) String() string {
	if s.IsZero() {
		return "default"
	}
	return fmt.Sprintf("%s (kind %s)", s.path, s.kind)
}
