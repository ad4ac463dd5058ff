package ledger

import (
	"errors"
	"fmt"
)

var (
	// ErrRolledBack means that the database holds less than what was signed already: it was restored
	// from an older copy, emptied or cut. The ledger does not sign on it.
	ErrRolledBack = errors.New("the ledger is shorter than what was signed already")
	// ErrForked means that the database holds something else than what was signed already.
	ErrForked = errors.New("the ledger differs from what was signed already")
	// ErrDamaged means that the database contradicts itself. `castellan evidence verify` on an export
	// says where.
	ErrDamaged = errors.New("the ledger is damaged")
	// ErrClosed means that the ledger takes no more entries.
	ErrClosed = errors.New("the ledger is closed")
)

// damaged makes an error that is ErrDamaged. It is not classified as final: appending goes on as soon
// as the operator has repaired the database.
func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrDamaged, fmt.Errorf(format, args...))
}
