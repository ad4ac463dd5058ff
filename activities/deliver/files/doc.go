// Package files delivers a certificate and its key as files on this host.
//
// Two paths cannot change together, because rename(2) acts on one. So there are two honest layouts and
// a declared exception:
//
//   - generation: `<directory>/current` is a symbolic link to `generations/<epoch>-<fingerprint>`, which
//     holds certificate, key and bundle. One rename of the link changes all of them. A program must open
//     the directory once (or read `current` once) and take its files from there; one that opens
//     `current/tls.crt` and later `current/tls.key` can straddle the change, and must read again when
//     certificate and key do not match.
//   - combined: one PEM file holds chain, key and, if asked for, the bundle. One rename changes it.
//   - plain: two or three paths of their own. They change one after the other, so a reader can see a
//     certificate with another one's key for a moment; the configuration must say `nonAtomic: true`.
//
// Each delivery has a state directory outside the served one. It holds the lock, the fence (the epoch
// and fingerprint of the last write, and what castellan itself has put beside the served files) and,
// until it is retired, what was there before. The lock is held across fence check and flip, so a process
// that was stopped between the two still finishes before a newer epoch starts. Every delivery needs its
// own state directory on the host that serves the files: the fence is what that directory says.
//
// A crash anywhere is repaired by repeating the call. Only what the state directory names as castellan's
// own is ever removed; content of others is replaced at the served name, under the precondition that it
// is still what the caller saw, and kept until it is retired.
//
// Owner, group and mode are those of the files being replaced, or set by the configuration. Files are
// created unreadable for others and opened up only when complete; a key is never readable by others.
//
// Whoever may write the served directory can already change what is served, so it may belong to the
// consumer. What castellan refuses is to be led elsewhere: everything is opened below the served
// directory, links that leave it are refused, and neither it nor the directories above it may be
// writable by strangers. Extended attributes and access control lists are not copied.
//
// A generation that is no longer served moves into the state directory, where a program that has it open
// can read on; Retire erases it together with what was kept. After a Restore, Retire the epoch that was
// undone, so that the rejected key goes, too. When the state directory is on another file system than the
// served one, the generation is erased at once, and a program that was reading it must read again.
//
// Erasing overwrites what castellan kept before it is removed; a program so slow that it is still reading
// a retired generation finds no key there and must read again. The blocks of a file that a rename replaced
// are left to the file system, and on copy-on-write file systems and flash so are overwritten ones: encrypt
// such disks.
package files
