// Package engine runs a Temporal server inside castellan-dev: five services, one SQLite file, every
// listening port behind mutual TLS, and castellan's own authorizer in front.
//
// It is for development, demonstrations and tests on one machine. Temporal promises neither SQLite
// in production nor that a SQLite file survives another server version, so production runs against
// a Temporal cluster and its binaries must never import this package: it links the whole server.
package engine
