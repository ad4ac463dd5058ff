// Package file is the embedded secret store: a directory of encrypted files, for castellan-dev and for
// an installation whose workers share one machine. Several machines need a shared store instead.
//
// Every version of a document is a file of its own, encrypted with AES-256-GCM under a data key of its
// own, which the keyring seals; name, version and header are bound to both, so a file that was altered,
// renamed or put in another's place is refused. Nothing is ever written in plain, temporary files
// included. What is not hidden: names, the number of versions, and the length of a value. What is not
// detected: somebody who removes the latest versions, or the whole directory, and so turns time back.
//
// The check-and-set is link(2): a version's file is written and synced under a temporary name and then
// linked to its own name, which fails if another process, or another goroutine, was first. Write
// returns after the directory is synced too. A reader syncs what it has not seen synced before, so
// nobody acts on a version that a power failure could take back.
//
// Erase replaces the version by a tombstone and overwrites the file, data key first. On flash memory, on
// journaling and copy-on-write filesystems and in backups, earlier blocks may survive an overwrite; what
// survives there is still encrypted under the keyring's key, and only retiring that key ends it.
package file
