package fault

import (
	"errors"
	"fmt"
	"net"
	"sync"
)

// Mode is what a proxy does to the connections that pass through it.
type Mode int

const (
	// Pass forwards everything. It is the mode of a fresh proxy.
	Pass Mode = iota
	// Refuse stops listening: a dial gets "connection refused". Open connections live on. The port
	// stays reserved, so no other process can take it meanwhile.
	Refuse
	// Cut resets every open connection, and every further one as soon as it is accepted.
	Cut
	// Stall keeps connections open, and accepts further ones, but no byte passes in either direction.
	// What was held back passes when the mode changes.
	Stall
	// Swallow delivers what the caller sends and drops what the target answers: the effect happens
	// and nobody hears of it. A TLS handshake still succeeds, because answers are dropped only once
	// the caller has sent application data in this mode. When the target closes the connection, the
	// caller's is cut; until then the caller waits. A connection that lost bytes never recovers.
	Swallow
)

// String returns the mode's name, for the names of test cases.
func (m Mode) String() string {
	switch m {
	case Pass:
		return "pass"
	case Refuse:
		return "refuse"
	case Cut:
		return "cut"
	case Stall:
		return "stall"
	case Swallow:
		return "swallow"
	}
	return fmt.Sprintf("mode %d", int(m))
}

// Proxy is a TCP proxy on a loopback port of its own. It is safe for concurrent use.
type Proxy struct {
	port *reservation // holds the port while the proxy refuses

	mu        sync.Mutex
	changed   *sync.Cond // signalled on every change of mode and on Close
	mode      Mode
	target    string
	listener  net.Listener // nil in mode Refuse
	pairs     map[*pair]struct{}
	accepted  int
	swallowed int
	closed    bool
	running   sync.WaitGroup
}

// New returns a proxy for the target's address, in mode Pass.
func New(target string) (*Proxy, error) {
	port, err := reserve()
	if err != nil {
		return nil, err
	}
	p := &Proxy{port: port, target: target, pairs: map[*pair]struct{}{}}
	p.changed = sync.NewCond(&p.mu)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.listen(); err != nil {
		return nil, errors.Join(err, port.Close())
	}
	return p, nil
}

// Address returns the address that callers dial. It is the same for the proxy's whole life.
func (p *Proxy) Address() string { return p.port.address }

// Accepted returns how many connections the proxy has accepted so far.
func (p *Proxy) Accepted() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// Swallowed returns on how many connections an answer was dropped and then ended by the target, which
// is when the effect is certain. A test that provokes a lost reply asserts that this number grew.
func (p *Proxy) Swallowed() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.swallowed
}

// Retarget points further connections at another address, for a target that restarts elsewhere.
func (p *Proxy) Retarget(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Set changes the mode, for open connections too. It returns when the change is in force.
func (p *Proxy) Set(mode Mode) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.mode = mode
	p.changed.Broadcast()
	if mode == Cut {
		for open := range p.pairs {
			open.reset()
		}
	}
	if mode == Refuse {
		return p.refuse()
	}
	return p.listen()
}

// Close cuts every connection and gives the port back.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil
	}
	p.closed = true
	p.changed.Broadcast()
	for open := range p.pairs {
		open.reset()
	}
	err := errors.Join(p.refuse(), p.port.Close())
	p.mu.Unlock()
	p.running.Wait()
	return err
}

// listen starts accepting, unless the proxy accepts already.
func (p *Proxy) listen() error {
	if p.listener != nil {
		return nil
	}
	listener, err := p.port.listen()
	if err != nil {
		return err
	}
	p.listener = listener
	p.running.Add(1)
	go p.accept(listener)
	return nil
}

// refuse stops accepting.
func (p *Proxy) refuse() error {
	if p.listener == nil {
		return nil
	}
	err := p.listener.Close()
	p.listener = nil
	return err
}

func (p *Proxy) accept(listener net.Listener) {
	defer p.running.Done()
	for {
		caller, err := listener.Accept()
		if err != nil {
			return // closed by refuse
		}
		p.running.Add(1)
		go p.serve(caller)
	}
}

func (p *Proxy) serve(caller net.Conn) {
	defer p.running.Done()
	open := &pair{proxy: p, caller: caller}
	target, ok := p.admit(open)
	if !ok {
		return
	}
	defer p.forget(open)
	conn, err := net.Dial("tcp", target)
	if err != nil {
		open.reset()
		return
	}
	open.attach(conn)
	open.run()
}

// admit counts the connection and waits while the proxy stalls. A connection that arrives in mode Cut
// is reset.
func (p *Proxy) admit(open *pair) (target string, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.accepted++
	p.pairs[open] = struct{}{}
	for p.mode == Stall && !p.closed && !open.broken() {
		p.changed.Wait()
	}
	if p.mode == Cut || p.closed || open.broken() {
		open.reset()
		delete(p.pairs, open)
		return "", false
	}
	return p.target, true
}

func (p *Proxy) forget(open *pair) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.pairs, open)
}

// current waits while the proxy stalls and returns the mode in force.
func (p *Proxy) current() Mode {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.mode == Stall && !p.closed {
		p.changed.Wait()
	}
	return p.mode
}

func (p *Proxy) countSwallowed() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.swallowed++
}
