package fault

import (
	"net"
	"sync"
)

// pair is one caller's connection and the connection to the target that belongs to it.
type pair struct {
	proxy  *Proxy
	caller net.Conn

	mu     sync.Mutex
	target net.Conn // nil until dialled
	dead   bool
	asked  bool // the caller has sent application data while answers were to be dropped
	lost   bool // an answer was dropped; nothing more may reach the caller
}

// attach adds the connection to the target. A pair that was reset meanwhile closes it at once.
func (o *pair) attach(target net.Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.target = target
	if o.dead {
		abort(target)
	}
}

// run forwards in both directions until both have ended.
func (o *pair) run() {
	var both sync.WaitGroup
	both.Go(o.forward)
	both.Go(o.back)
	both.Wait()
	_ = o.caller.Close()
	_ = o.target.Close()
}

// forward carries the caller's bytes to the target, and notes requests whose answer is to be dropped.
func (o *pair) forward() {
	var stream records
	buffer := make([]byte, 32<<10)
	for {
		n, err := o.caller.Read(buffer)
		if n > 0 {
			mode := o.proxy.current() // holds the bytes back while stalled
			if stream.application(buffer[:n]) && mode == Swallow {
				o.mu.Lock()
				o.asked = true
				o.mu.Unlock()
			}
			if _, writeErr := o.target.Write(buffer[:n]); writeErr != nil {
				o.reset()
				return
			}
		}
		if err != nil {
			closeWrite(o.target)
			return
		}
	}
}

// back carries the target's bytes to the caller, or drops them.
func (o *pair) back() {
	buffer := make([]byte, 32<<10)
	for {
		n, err := o.target.Read(buffer)
		if n > 0 && !o.drops(o.proxy.current()) {
			if _, writeErr := o.caller.Write(buffer[:n]); writeErr != nil {
				o.reset()
				return
			}
		}
		if err == nil {
			continue
		}
		if o.drops(Pass) {
			o.proxy.countSwallowed()
			o.reset()
			return
		}
		closeWrite(o.caller)
		return
	}
}

// drops reports whether an answer that arrives in this mode must not reach the caller. Once one was
// dropped, all are: the caller could not make sense of what follows.
func (o *pair) drops(mode Mode) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if mode == Swallow && o.asked {
		o.lost = true
	}
	return o.lost
}

// reset ends both connections at once, with RST rather than FIN.
func (o *pair) reset() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dead = true
	abort(o.caller)
	if o.target != nil {
		abort(o.target)
	}
}

func (o *pair) broken() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.dead
}

func abort(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

func closeWrite(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
}
