package reload_test

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"castellan.dev/activities"
	"castellan.dev/activities/deliver/reload"
)

// systemd is a system bus with one manager and one unit. It speaks the D-Bus wire format on a socket,
// as far as a reload needs it: https://dbus.freedesktop.org/doc/dbus-specification.html
type systemd struct {
	t     *testing.T
	mutex sync.Mutex
	peers []*peer

	load, active string // the unit's states
	invocation   byte   // changes with each restart
	result       string // of the next jobs; empty: they never end
	refuse       string // error name for job requests
	loseReply    bool   // the job is done, but the connection breaks before the reply
	calls        []string
	restarts     int
}

type peer struct {
	conn   net.Conn
	mutex  sync.Mutex
	serial uint32
}

func startSystemd(t *testing.T) *systemd {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bus")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	s := &systemd{t: t, load: "loaded", active: "active", invocation: 1, result: "done"}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p := &peer{conn: conn}
			s.mutex.Lock()
			s.peers = append(s.peers, p)
			s.mutex.Unlock()
			serving.Go(func() {
				defer conn.Close()
				s.serve(p)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		s.mutex.Lock()
		for _, p := range s.peers {
			_ = p.conn.Close()
		}
		s.mutex.Unlock()
		serving.Wait()
	})
	return s
}

// serve authenticates a client and answers its calls.
func (s *systemd) serve(p *peer) {
	in := bufio.NewReader(p.conn)
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			return
		}
		switch word := strings.Fields(strings.TrimLeft(line, "\x00") + " -")[0]; {
		case word == "AUTH" && strings.Contains(line, "EXTERNAL"):
			_, _ = fmt.Fprintf(p.conn, "OK %s\r\n", hex.EncodeToString(make([]byte, 16)))
		case word == "AUTH":
			_, _ = fmt.Fprint(p.conn, "REJECTED EXTERNAL\r\n")
		case word == "BEGIN":
			s.answer(p, in)
			return
		default:
			_, _ = fmt.Fprint(p.conn, "ERROR\r\n")
		}
	}
}

func (s *systemd) answer(p *peer, in *bufio.Reader) {
	for {
		call, err := dbus.DecodeMessage(in)
		if err != nil {
			return
		}
		member, _ := call.Headers[dbus.FieldMember].Value().(string)
		switch member {
		case "Hello":
			p.reply(call, ":1.1")
		case "GetAll":
			p.reply(call, s.properties())
		case "ReloadUnit", "TryRestartUnit":
			s.job(p, call, member)
		default: // AddMatch, Subscribe
			p.reply(call)
		}
	}
}

func (s *systemd) properties() map[string]dbus.Variant {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return map[string]dbus.Variant{
		"LoadState": dbus.MakeVariant(s.load), "ActiveState": dbus.MakeVariant(s.active),
		"InvocationID": dbus.MakeVariant([]byte{s.invocation, 2, 3}),
	}
}

// job does what was asked and tells everybody when it has ended.
func (s *systemd) job(p *peer, call *dbus.Message, member string) {
	s.mutex.Lock()
	s.calls = append(s.calls, fmt.Sprint(member, call.Body))
	if member == "TryRestartUnit" && s.refuse == "" {
		s.restarts++
		s.invocation++
	}
	refuse, result, lose, peers := s.refuse, s.result, s.loseReply, append([]*peer{}, s.peers...)
	s.mutex.Unlock()
	switch {
	case refuse != "":
		p.refuse(call, refuse)
		return
	case lose:
		for _, other := range peers {
			_ = other.conn.Close()
		}
		return
	}
	path := dbus.ObjectPath("/org/freedesktop/systemd1/job/7")
	p.reply(call, path)
	if result == "" {
		return
	}
	for _, other := range peers {
		other.send(&dbus.Message{
			Type: dbus.TypeSignal,
			Headers: map[dbus.HeaderField]dbus.Variant{
				dbus.FieldPath:      dbus.MakeVariant(dbus.ObjectPath("/org/freedesktop/systemd1")),
				dbus.FieldInterface: dbus.MakeVariant("org.freedesktop.systemd1.Manager"),
				dbus.FieldMember:    dbus.MakeVariant("JobRemoved"),
				dbus.FieldSender:    dbus.MakeVariant("org.freedesktop.systemd1"),
			},
			Body: []any{uint32(7), path, "web.service", result},
		})
	}
}

func (p *peer) reply(call *dbus.Message, body ...any) {
	p.send(&dbus.Message{Type: dbus.TypeMethodReply, Body: body, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()),
	}})
}

func (p *peer) refuse(call *dbus.Message, name string) {
	p.send(&dbus.Message{Type: dbus.TypeError, Body: []any{"no"}, Headers: map[dbus.HeaderField]dbus.Variant{
		dbus.FieldReplySerial: dbus.MakeVariant(call.Serial()), dbus.FieldErrorName: dbus.MakeVariant(name),
	}})
}

// send encodes a message. The library keeps serial numbers to itself, so the bytes are patched: the
// serial is the third word of the header.
func (p *peer) send(message *dbus.Message) {
	if len(message.Body) > 0 {
		message.Headers[dbus.FieldSignature] = dbus.MakeVariant(dbus.SignatureOf(message.Body...))
	}
	var text strings.Builder
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.serial++
	if err := message.EncodeTo(&text, binary.LittleEndian); err != nil {
		panic(err)
	}
	raw := []byte(text.String())
	binary.LittleEndian.PutUint32(raw[8:], p.serial)
	_, _ = p.conn.Write(raw)
}

func (s *systemd) set(f func()) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	f()
}

// asked returns how often the unit was restarted, and all calls.
func (s *systemd) asked() (restarts int, calls []string) {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	return s.restarts, append([]string{}, s.calls...)
}

func (s *systemd) reloader(action string, timeout time.Duration) *reload.Systemd {
	s.t.Helper()
	config := reload.SystemdConfig{Unit: "web.service", Action: action, Timeout: timeout}
	wantNoProblems(s.t, config)
	return reload.NewSystemd(config, filepath.Join(s.t.TempDir(), "state", "restart.json"))
}

func TestSystemdReloads(t *testing.T) {
	s := startSystemd(t)
	if err := s.reloader("", 0).Reload(t.Context(), "abc"); err != nil {
		t.Fatal(err)
	}
	if restarts, calls := s.asked(); len(calls) != 1 || calls[0] != "ReloadUnit[web.service replace]" || restarts != 0 {
		t.Errorf("systemd was asked for %v", calls)
	}
}

func TestSystemdRestartsOncePerFingerprint(t *testing.T) {
	s := startSystemd(t)
	r := s.reloader("restart", 0)
	for _, c := range []struct {
		fingerprint string
		want        int
	}{{"a", 1}, {"a", 1}, {"b", 2}, {"b", 2}, {"a", 3}} {
		if err := r.Reload(t.Context(), c.fingerprint); err != nil {
			t.Fatal(err)
		}
		if restarts, _ := s.asked(); restarts != c.want {
			t.Fatalf("after %q: %d restarts, want %d", c.fingerprint, restarts, c.want)
		}
	}
}

func TestSystemdDoesNotRestartAgainAfterALostReply(t *testing.T) {
	s := startSystemd(t)
	r := s.reloader("restart", 0)
	s.set(func() { s.loseReply = true })
	if err := r.Reload(t.Context(), "a"); err == nil {
		t.Fatal("a restart whose reply was lost succeeded")
	}
	s.set(func() { s.loseReply = false })
	if err := r.Reload(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if restarts, _ := s.asked(); restarts != 1 {
		t.Errorf("got %d restarts, want 1", restarts)
	}
}

func TestSystemdFailures(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*systemd)
		want activities.Kind
	}{
		"the job fails":              {func(s *systemd) { s.result = "failed" }, activities.Failed},
		"the job is cancelled":       {func(s *systemd) { s.result = "canceled" }, activities.Transient},
		"the job depends on another": {func(s *systemd) { s.result = "dependency" }, activities.Transient},
		"the job never ends":         {func(s *systemd) { s.result = "" }, activities.Uncertain},
		"the unit does not exist":    {func(s *systemd) { s.load = "not-found" }, activities.NotFound},
		"the unit cannot reload":     {func(s *systemd) { s.refuse = "org.freedesktop.systemd1.JobTypeNotApplicable" }, activities.Invalid},
		"the right is missing":       {func(s *systemd) { s.refuse = "org.freedesktop.DBus.Error.AccessDenied" }, activities.Denied},
		"another error":              {func(s *systemd) { s.refuse = "org.freedesktop.DBus.Error.Failed" }, activities.Transient},
		"the connection breaks":      {func(s *systemd) { s.loseReply = true }, activities.Transient},
	} {
		t.Run(name, func(t *testing.T) {
			s := startSystemd(t)
			s.set(func() { c.set(s) })
			timeout := 20 * time.Second
			if s.result == "" {
				timeout = 300 * time.Millisecond
			}
			wantKind(t, s.reloader("reload", timeout).Reload(t.Context(), "abc"), c.want)
		})
	}
}

func TestSystemdLeavesAStoppedUnitAlone(t *testing.T) {
	s := startSystemd(t)
	s.set(func() { s.active = "inactive" })
	for _, action := range []string{"reload", "restart"} {
		if err := s.reloader(action, 0).Reload(t.Context(), "abc"); err != nil {
			t.Errorf("%s: %v", action, err)
		}
	}
	if _, calls := s.asked(); len(calls) != 0 {
		t.Errorf("systemd was asked for %v, want nothing", calls)
	}
}

func TestSystemdWithoutABus(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+filepath.Join(t.TempDir(), "none"))
	r := reload.NewSystemd(reload.SystemdConfig{Unit: "web.service"}, filepath.Join(t.TempDir(), "m"))
	wantKind(t, r.Reload(t.Context(), "abc"), activities.Transient)
}
