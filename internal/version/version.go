// Package version says which build this is.
package version

// Version is the release, set by the linker: -X castellan.dev/internal/version.Version=v1.2.3.
var Version = "dev"
