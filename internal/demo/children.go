package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// child is a process that the show started, in a process group of its own.
type child struct {
	name     string
	cmd      *exec.Cmd
	stdin    io.Closer // closed with the show's process: services end when they notice
	done     chan struct{}
	expected atomic.Bool // its end is part of the show
}

// children are all processes of the show. A child that ends by itself ends the show.
type children struct {
	logs string
	fail context.CancelCauseFunc

	mu      sync.Mutex
	running []*child
	stopped bool
}

// start starts a process that logs into a file of its name. Files are inherited from descriptor 3 on.
func (c *children) start(name string, files []*os.File, path string, args ...string) (*child, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return nil, fmt.Errorf("start %s: the show is over", name)
	}
	log, err := os.OpenFile(c.log(name), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	started := &child{name: name, cmd: exec.Command(path, args...), done: make(chan struct{})}
	started.cmd.Stdout, started.cmd.Stderr, started.cmd.ExtraFiles = log, log, files
	started.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if started.stdin, err = started.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	if err := started.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c.running = append(c.running, started)
	go c.wait(started)
	return started, nil
}

// wait reports an end that nobody asked for.
func (c *children) wait(one *child) {
	err := one.cmd.Wait()
	close(one.done)
	if one.expected.Load() {
		return
	}
	text := "without an error"
	if err != nil {
		text = err.Error()
	}
	c.fail(fmt.Errorf("%s ended by itself (%s); the end of its log:\n%s", one.name, text, tail(c.log(one.name), 2000)))
}

func (c *children) log(name string) string { return c.logs + "/" + name + ".log" }

// kill sends SIGKILL to a process group and waits for the end.
func (c *children) kill(one *child) error {
	one.expected.Store(true)
	if err := syscall.Kill(-one.cmd.Process.Pid, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill %s: %w", one.name, err)
	}
	<-one.done
	return nil
}

// patience is how long a process gets to stop by itself.
const patience = 10 * time.Second

// stop stops every process, the last first, and kills what does not stop. Nothing starts afterwards.
func (c *children) stop() {
	c.mu.Lock()
	c.stopped = true
	running := slices.Clone(c.running)
	c.mu.Unlock()
	for _, one := range slices.Backward(running) {
		one.expected.Store(true)
		one.stdin.Close()
		select {
		case <-one.done:
		default:
			// An error means that it has just ended.
			_ = syscall.Kill(-one.cmd.Process.Pid, syscall.SIGTERM)
		}
	}
	limit := time.After(patience)
	for _, one := range slices.Backward(running) {
		select {
		case <-one.done:
		case <-limit:
			limit = closed()
			_ = syscall.Kill(-one.cmd.Process.Pid, syscall.SIGKILL)
			<-one.done
		}
	}
}

// closed returns a channel that always answers.
func closed() <-chan time.Time {
	c := make(chan time.Time)
	close(c)
	return c
}

// tail returns the end of a file.
func tail(path string, most int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(bytes.TrimSpace(text[max(0, len(text)-most):]))
}

// launch starts castellan-dev and waits until it has published where it answers.
func (s *show) launch(ctx context.Context) error {
	_, err := s.children.start("castellan-dev", nil, s.options.Self, "--state", string(s.layout.state), "--zones", "control,observe,record",
		"--engine-port", "0", "--api-port", "0", "--web-port", "0", "--ca-port", "0", "--log-level", "warn")
	if err != nil {
		return err
	}
	return until(ctx, 100*time.Millisecond, func() (bool, error) {
		s.endpoints, err = s.layout.state.Endpoints()
		return err == nil, nil
	})
}

// work starts the process that holds the privileged zone.
func (s *show) work() (err error) {
	s.worker, err = s.children.start("worker", nil, s.options.Castellan, "worker", "--state", string(s.layout.state), "--zone", "privileged", "--log-level", "warn")
	return err
}

// serve starts the services on the sockets that the show has opened. They wait for their certificates.
func (s *show) serve() error {
	a := s.addresses
	for _, service := range []struct {
		name string
		args []string
	}{
		{"payments-1", []string{"--clients", "--crl", s.endpoints.CA.CRL}},
		{straggling, []string{"--clients", "--crl", s.endpoints.CA.CRL, "--lag", lag.String()}},
		{orders, []string{"--upstream", a.payments1.Addr().String(), "--upstream", a.payments2.Addr().String()}},
	} {
		listener := map[string]interface{ File() (*os.File, error) }{"payments-1": a.payments1, straggling: a.payments2, orders: a.orders}[service.name]
		file, err := listener.File()
		if err != nil {
			return fmt.Errorf("hand socket to %s: %w", service.name, err)
		}
		args := append([]string{"demo-service", "--name", service.name, "--pair", s.layout.pair(service.name)}, service.args...)
		_, err = s.children.start(service.name, []*os.File{file}, s.options.Self, args...)
		if err := errors.Join(err, file.Close()); err != nil {
			return err
		}
	}
	a.close()
	return nil
}

// lag is how late the straggling replica reloads: after castellan's first look has ended.
const lag = 9 * time.Second
