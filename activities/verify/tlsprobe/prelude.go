package tlsprobe

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
)

// prelude speaks the words that a protocol wants before TLS.
type prelude func(conn net.Conn) error

var preludes = map[string]prelude{
	"":         func(net.Conn) error { return nil },
	"none":     func(net.Conn) error { return nil },
	"postgres": postgresPrelude,
	"smtp":     smtpPrelude,
	"imap":     imapPrelude,
}

// sslRequestCode asks a PostgreSQL server for TLS.
// https://www.postgresql.org/docs/current/protocol-message-formats.html#PROTOCOL-MESSAGE-FORMATS-SSLREQUEST
const sslRequestCode = 80877103

func postgresPrelude(conn net.Conn) error {
	request := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 8), sslRequestCode)
	if _, err := conn.Write(request); err != nil {
		return err
	}
	// Exactly one byte is read: what follows it in clear could have been put there by somebody else.
	answer := make([]byte, 1)
	if _, err := io.ReadFull(conn, answer); err != nil {
		return err
	}
	switch answer[0] {
	case 'S':
		return nil
	case 'N':
		return fmt.Errorf("the server has no TLS (it answers the SSLRequest with N)")
	}
	return fmt.Errorf("the server answers the SSLRequest with byte %#x", answer[0])
}

func smtpPrelude(conn net.Conn) error {
	if err := smtpReply(conn, "220"); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "EHLO castellan.invalid\r\n"); err != nil {
		return err
	}
	if err := smtpReply(conn, "250"); err != nil {
		return err
	}
	if _, err := io.WriteString(conn, "STARTTLS\r\n"); err != nil {
		return err
	}
	return smtpReply(conn, "220")
}

// smtpReply reads a reply of one or more lines (RFC 5321 section 4.2.1).
func smtpReply(conn net.Conn, code string) error {
	for range 100 {
		line, err := readLine(conn)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(line, code) {
			return fmt.Errorf("the server answers %q, not %s", clip(line), code)
		}
		if !strings.HasPrefix(line, code+"-") {
			return nil
		}
	}
	return fmt.Errorf("the server's reply has no end")
}

func imapPrelude(conn net.Conn) error {
	greeting, err := readLine(conn)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(greeting, "* OK") && !strings.HasPrefix(greeting, "* PREAUTH") {
		return fmt.Errorf("the server greets with %q", clip(greeting))
	}
	if _, err := io.WriteString(conn, "a STARTTLS\r\n"); err != nil {
		return err
	}
	for range 100 {
		line, err := readLine(conn)
		if err != nil {
			return err
		}
		if strings.HasPrefix(line, "* ") {
			continue
		}
		if !strings.HasPrefix(line, "a OK") {
			return fmt.Errorf("the server answers STARTTLS with %q", clip(line))
		}
		return nil
	}
	return fmt.Errorf("the server's reply has no end")
}

// readLine reads byte by byte, so that nothing behind the line is taken from TLS. It works on any
// connection, before and after the handshake.
func readLine(conn io.Reader) (string, error) {
	var line []byte
	one := make([]byte, 1)
	for len(line) < 1024 {
		if _, err := io.ReadFull(conn, one); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return strings.TrimRight(string(line), "\r"), nil
		}
		line = append(line, one[0])
	}
	return "", fmt.Errorf("the server sends a line of more than 1024 bytes")
}

// clip shortens what a stranger sent for a log.
func clip(line string) string {
	if len(line) > 60 {
		return line[:60]
	}
	return line
}
