// Package config reads castellan's one configuration file.
//
// [Load] is strict: unknown and repeated keys, wrong types, tabs, further documents, references that
// lead nowhere and secrets in the file are problems, and all of them are reported at once, each with
// file and line, field, value and expectation. Secrets are named by file; environment variables are
// expanded in addresses only.
//
// The package knows no vendor. What a store, an issuer, a delivery, a reload or a consumer of some
// kind needs is a [Section]; whoever wires the kinds passes a [Catalogue] to [Config.Check], which
// decodes every section just as strictly into the vendor's own struct. This package must not open
// what the configuration names, nor import anything that does.
package config
