package postgres

import "syscall"

// dieWithParent ends the server at once when the test's process vanishes.
func dieWithParent(attributes *syscall.SysProcAttr) { attributes.Pdeathsig = syscall.SIGQUIT }
