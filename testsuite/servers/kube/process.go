package kube

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// process is one server's process. A nil process is one that was never started.
type process struct {
	command *exec.Cmd
	stdin   io.Closer
	log     string
	ended   chan struct{} // closed when the process is gone
}

// launch starts a server whose output goes to a file in dir. The server ends when this process does,
// because its standard input ends then.
func launch(dir, program, server string, flags ...string) (*process, error) {
	p := &process{log: filepath.Join(dir, server+".log"), ended: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own copy
	p.command = exec.Command(program, append([]string{server}, flags...)...)
	p.command.Dir = dir
	p.command.Stdout, p.command.Stderr = log, log
	p.command.Env = append(os.Environ(), "EXIT_WITH_STDIN=1")
	if p.stdin, err = p.command.StdinPipe(); err != nil {
		return nil, err
	}
	if err := p.command.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.command.Wait()
		close(p.ended)
	}()
	return p, nil
}

// kill ends the process as kill -9 does and waits until it is gone.
func (p *process) kill() {
	if p == nil {
		return
	}
	_ = p.command.Process.Kill()
	<-p.ended
}

// tail returns the last lines of the server's log, for an error message.
func (p *process) tail() string {
	const length = 4096
	content, err := os.ReadFile(p.log)
	if err != nil {
		return err.Error()
	}
	if len(content) > length {
		content = content[len(content)-length:]
	}
	return string(content)
}
