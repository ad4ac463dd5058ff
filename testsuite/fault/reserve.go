package fault

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// reservation is a socket that is bound to a loopback port and never listens. While it is open, the
// kernel gives the port to nobody else, and a dial is refused unless this process listens too.
type reservation struct {
	fd      int
	address string
	once    sync.Once
}

// reserve binds a free loopback port.
func reserve() (*reservation, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		return nil, fmt.Errorf("open a socket: %w", err)
	}
	unix.CloseOnExec(fd)
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1),
		unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}),
	)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bind a loopback port: %w", err), unix.Close(fd))
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the bound port: %w", err), unix.Close(fd))
	}
	port := bound.(*unix.SockaddrInet4).Port
	return &reservation{fd: fd, address: fmt.Sprintf("127.0.0.1:%d", port)}, nil
}

// listen accepts connections on the reserved port.
func (r *reservation) listen() (net.Listener, error) {
	config := net.ListenConfig{Control: reusePort}
	listener, err := config.Listen(context.Background(), "tcp4", r.address)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", r.address, err)
	}
	return listener, nil
}

// Close gives the port back.
func (r *reservation) Close() error {
	var err error
	r.once.Do(func() { err = unix.Close(r.fd) })
	return err
}

func reusePort(_, _ string, raw syscall.RawConn) error {
	var failure error
	err := raw.Control(func(fd uintptr) {
		failure = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	})
	return errors.Join(err, failure)
}
