package tlsprobe

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"
)

// byteExchange gets one byte out of the server over an established TLS connection. Name is the name
// that the server was asked for.
type byteExchange func(conn *tls.Conn, name string) error

// quietExchange is the name of the exchange that a silent server passes.
const quietExchange = "quiet"

var exchanges = map[string]byteExchange{
	"http":        httpExchange,
	"http2":       http2Exchange,
	"postgres":    postgresExchange,
	"smtp":        lineExchange("EHLO castellan.invalid\r\n"),
	"imap":        lineExchange("b NOOP\r\n"),
	quietExchange: nil,
}

// exchange proves that the connection carries data. Under TLS 1.3 this is where a server's refusal of
// the client's certificate arrives.
func (p *prober) exchange(conn *tls.Conn, name string) error {
	way := p.config.Exchange
	if way == "" {
		way = p.config.Prelude
	}
	if negotiated := conn.ConnectionState().NegotiatedProtocol; way == "" || way == "none" || way == "http" {
		switch {
		case negotiated == "h2":
			way = "http2"
		case negotiated == "http/1.1":
			way = "http"
		case negotiated == "postgresql":
			way = "postgres"
		case way != "http":
			way = quietExchange
		}
	}
	if way == quietExchange {
		return listen(conn, p.config.Quiet)
	}
	return exchanges[way](conn, name)
}

// listen waits for a byte for a short time. Silence is fine: the server waits for its client to speak.
// An alert or a hang-up is not.
func listen(conn *tls.Conn, quiet time.Duration) error {
	if err := conn.SetReadDeadline(time.Now().Add(quiet)); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// statusRefused is an answer by which HTTP servers say that they refuse the client's certificate after
// the handshake: nginx answers 400 with or without its internal codes 495 and 496.
type statusRefused struct{ line string }

func (s statusRefused) Error() string { return fmt.Sprintf("answers %q", s.line) }

func httpExchange(conn *tls.Conn, name string) error {
	host := name
	if strings.Contains(name, ":") {
		host = "[" + name + "]"
	}
	request := "HEAD / HTTP/1.1\r\nHost: " + host + "\r\nUser-Agent: castellan\r\nConnection: close\r\n\r\n"
	if _, err := io.WriteString(conn, request); err != nil {
		return preferRead(conn, err)
	}
	line, err := readLine(conn)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "HTTP/") {
		return fmt.Errorf("answers HTTP with %q", clip(line))
	}
	for _, code := range []string{" 400", " 495", " 496"} {
		if rest, ok := strings.CutPrefix(line[min(len(line), len("HTTP/1.1")):], code); ok && (rest == "" || rest[0] == ' ') {
			return statusRefused{clip(line)}
		}
	}
	return nil
}

// http2Exchange sends the connection preface with empty settings (RFC 9113 section 3.4); the server's own
// settings come back.
func http2Exchange(conn *tls.Conn, _ string) error {
	return lineExchange("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00")(conn, "")
}

// postgresExchange begins a session that the server will ask to authenticate, or refuse; either is an
// answer. No password is known here, and none is sent.
// https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-STARTUPMESSAGE
func postgresExchange(conn *tls.Conn, _ string) error {
	body := binary.BigEndian.AppendUint32(nil, 3<<16)
	body = append(body, "user\x00castellan\x00database\x00castellan\x00\x00"...)
	message := append(binary.BigEndian.AppendUint32(nil, uint32(len(body)+4)), body...)
	if _, err := conn.Write(message); err != nil {
		return preferRead(conn, err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		return err
	}
	_, _ = conn.Write([]byte{'X', 0, 0, 0, 4}) // Terminate, so that the server logs no lost connection
	return nil
}

// lineExchange sends a fixed text and waits for a byte.
func lineExchange(text string) byteExchange {
	return func(conn *tls.Conn, _ string) error {
		if _, err := io.WriteString(conn, text); err != nil {
			return preferRead(conn, err)
		}
		_, err := io.ReadFull(conn, make([]byte, 1))
		return err
	}
}

// preferRead looks for the alert that explains why a write failed: the server may have refused and
// closed before the client's first byte left.
func preferRead(conn *tls.Conn, written error) error {
	_, err := io.ReadFull(conn, make([]byte, 1))
	var alert *net.OpError
	if errors.As(err, &alert) && alert.Op == "remote error" {
		return err
	}
	return written
}
