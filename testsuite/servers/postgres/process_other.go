//go:build !linux

package postgres

import "syscall"

// dieWithParent does nothing: only Linux tells a child of its parent's end.
func dieWithParent(*syscall.SysProcAttr) {}
