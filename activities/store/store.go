// Package store is the contract of secret stores: where candidates, current and previous credentials
// and the head of each rotation live.
//
// A document is a name with numbered versions. Every write is a check-and-set on the number of the
// latest version, so two writers can never both believe they won. Implementations are folders below
// this one; all of them pass the conformance suite in testsuite/conformance.
package store

import (
	"context"
	"time"
)

// Version numbers a document's versions from 1. Zero stands for "no version yet".
type Version uint64

// Document is one version of a named value.
type Document struct {
	Name    string
	Version Version
	Value   []byte // secret; callers must not log it
	Written time.Time
}

// VersionInfo describes a version without its value.
type VersionInfo struct {
	Version Version
	Written time.Time
	Erased  bool
}

// Store keeps documents. Names are slash-separated paths of lower-case letters, digits, '-', '_' and
// '.'; anything else is activities.Invalid.
//
// Errors carry a kind of package activities: NotFound for an absent or erased document, Conflict for
// a lost check-and-set, Uncertain when a write's outcome is unknown (read and compare), Transient or
// Denied otherwise.
type Store interface {
	// Read returns the latest version. It is NotFound if there is none or the latest is erased.
	Read(ctx context.Context, name string) (Document, error)
	// ReadVersion returns one version.
	ReadVersion(ctx context.Context, name string, version Version) (Document, error)
	// Write stores value as version latest+1 if the latest version is still expected (0: the document
	// has no version). When it returns nil the value survives a crash of the machine. Erasing a
	// version does not reset the numbers.
	Write(ctx context.Context, name string, value []byte, expected Version) (Version, error)
	// Versions lists a document's versions, oldest first; empty for an unknown document.
	Versions(ctx context.Context, name string) ([]VersionInfo, error)
	// Erase destroys the value of one version for good; its number stays taken. Idempotent.
	Erase(ctx context.Context, name string, version Version) error
	// List returns the names that begin with prefix, sorted.
	List(ctx context.Context, prefix string) ([]string, error)
}
