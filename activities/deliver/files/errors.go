package files

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"castellan.dev/activities"
)

// classify gives an error of the file system its kind. Paths are no secret; contents never get here.
func classify(err error, format string, args ...any) error {
	var own *activities.Error
	if errors.As(err, &own) {
		return err
	}
	what := fmt.Sprintf(format, args...)
	return activities.Errorf(kindOf(err), "%s: %w", what, err)
}

// escapes is how os.Root says that a link leads out of it; the package has no name for that error.
const escapes = "path escapes from parent"

func kindOf(err error) activities.Kind {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return activities.NotFound
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return activities.Denied
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ELOOP),
		errors.Is(err, syscall.EINVAL), errors.Is(err, syscall.ENAMETOOLONG):
		return activities.Invalid
	case strings.HasSuffix(err.Error(), escapes):
		return activities.Invalid
	}
	return activities.Transient
}
