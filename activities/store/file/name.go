package file

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"castellan.dev/activities"
	"castellan.dev/activities/store"
)

const (
	// Segments become directory names, which Linux limits to 255 bytes.
	maxSegment = 128
	maxName    = 512

	// mark begins the name of a version's file. No document's name can contain it, so the versions of
	// "a" never meet a document "a/b".
	mark = "@"
)

// checkName returns an Invalid error unless name is one that the contract allows.
func checkName(name string) error {
	if len(name) > maxName {
		return activities.Errorf(activities.Invalid, "document name has %d bytes, want at most %d", len(name), maxName)
	}
	for segment := range strings.SplitSeq(name, "/") {
		if segment == "" || segment == "." || segment == ".." || len(segment) > maxSegment || !allowed(segment) {
			return activities.Errorf(activities.Invalid,
				"document name %q: want segments of 1 to %d of a-z, 0-9, '-', '_' and '.', divided by '/'", name, maxSegment)
		}
	}
	return nil
}

// checkPrefix is checkName for the beginning of a name.
func checkPrefix(prefix string) error {
	if len(prefix) > maxName || !allowed(strings.ReplaceAll(prefix, "/", "")) {
		return activities.Errorf(activities.Invalid, "document prefix %q: want a-z, 0-9, '-', '_', '.' and '/'", prefix)
	}
	return nil
}

// allowed reports whether s consists of the characters of a segment.
func allowed(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

// directory returns the path of a document's directory in the store.
func directory(name string) string { return path.Join(documents, name) }

// versionPath returns the path of a version's file in the store.
func versionPath(name string, version store.Version) string {
	return path.Join(documents, name, fmt.Sprintf("%s%020d", mark, version))
}

// parseVersion returns the version whose file has this name, and whether it is one.
func parseVersion(file string) (store.Version, bool) {
	digits, ok := strings.CutPrefix(file, mark)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	version, err := strconv.ParseUint(digits, 10, 64)
	return store.Version(version), err == nil && version > 0
}
