package postgres

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// owner is the system user that the server runs as: PostgreSQL refuses to run as root.
type owner struct {
	credential *syscall.Credential // nil: the user who runs the test
}

func systemUser() (owner, error) {
	if os.Geteuid() != 0 {
		return owner{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return owner{}, fmt.Errorf("user %q: %w", name, err)
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return owner{}, fmt.Errorf("user %q: %w", name, err)
		}
		return owner{&syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
	}
	return owner{}, fmt.Errorf("postgres does not run as root, and there is no user postgres or nobody to run it as")
}

// own gives a file to the server's user.
func (o owner) own(path string) error {
	if o.credential == nil {
		return nil
	}
	return os.Chown(path, int(o.credential.Uid), int(o.credential.Gid))
}

// command prepares a program to run as the server's user, in a process group of its own so that a
// terminal's interrupt is left to the test, and to die with the test.
func (o owner) command(program string, arguments ...string) *exec.Cmd {
	command := exec.Command(program, arguments...)
	command.Dir = "/"
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8", "TZ=UTC"}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: o.credential, Setpgid: true}
	dieWithParent(command.SysProcAttr)
	return command
}

// process is a running server.
type process struct {
	pid   int
	ended chan struct{}
}

// launch starts the command and watches it from one locked thread: the kernel takes the end of the
// thread that made a process for the end of its parent.
func launch(command *exec.Cmd) (*process, error) {
	started := make(chan error)
	p := &process{ended: make(chan struct{})}
	go func() {
		runtime.LockOSThread()
		defer close(p.ended)
		if err := command.Start(); err != nil {
			started <- err
			return
		}
		p.pid = command.Process.Pid
		started <- nil
		command.Wait() // however it ends, ended says so
	}()
	return p, <-started
}

// end stops the server without any shutdown. The postmaster takes its children with it on SIGQUIT; if it
// does not, it is killed, and the children end as soon as they notice.
func (p *process) end() {
	syscall.Kill(p.pid, syscall.SIGQUIT)
	select {
	case <-p.ended:
	case <-time.After(20 * time.Second):
		syscall.Kill(p.pid, syscall.SIGKILL)
		<-p.ended
	}
}
