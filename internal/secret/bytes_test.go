package secret_test

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"castellan.dev/internal/secret"
	"gopkg.in/yaml.v3"
)

// outer holds a secret in every position in which a careless struct could.
type outer struct {
	Exported secret.Bytes
	hidden   secret.Bytes
	nested   struct{ deep []secret.Bytes }
	byName   map[string]secret.Bytes
	pointer  *secret.Bytes
}

type holder struct{ Exported secret.Bytes }

func TestNoPrinterOrEncoderShowsTheValue(t *testing.T) {
	const canary = "canary-7f3a91"
	s := secret.New([]byte(canary))
	o := outer{Exported: s, hidden: s, byName: map[string]secret.Bytes{"k": s}, pointer: &s}
	o.nested.deep = []secret.Bytes{s}

	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%o", "%T"} {
		for _, v := range []any{s, &s, o, &o, []secret.Bytes{s}, errors.Join(fmt.Errorf("%v", s))} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
	}
	for name, encode := range map[string]func(any) ([]byte, error){"json": json.Marshal, "yaml": yaml.Marshal, "xml": xml.Marshal} {
		encoded, err := encode(holder{s})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if !bytes.Contains(encoded, []byte(secret.Redacted)) {
			t.Errorf("%s: got %s, want the fixed word", name, encoded)
		}
		out.Write(encoded)
	}
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "secret", s, "outer", o)
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "secret", s, "outer", o)

	for _, form := range []string{canary, fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary), strings.Trim(fmt.Sprint([]byte(canary)), "[]")} {
		if strings.Contains(out.String(), form) {
			t.Errorf("a printer or encoder showed the value as %d bytes of text", len(form))
		}
	}
	if control := fmt.Sprintf("%+v", struct{ hidden []byte }{[]byte(canary)}); !strings.Contains(control, strings.Trim(fmt.Sprint([]byte(canary)), "[]")) {
		t.Error("negative control: a plain slice in an unexported field was not found")
	}
}

func TestValueIsKeptComparedAndDestroyed(t *testing.T) {
	a, b := secret.New([]byte("one")), secret.New([]byte("one"))
	if string(a.Reveal()) != "one" || a.Len() != 3 {
		t.Errorf("got %d bytes, want the value", a.Len())
	}
	if !a.Equal(b) || a.Equal(secret.New([]byte("two"))) || a.Equal(secret.Bytes{}) {
		t.Error("Equal does not compare values")
	}
	shared := a
	a.Destroy()
	if shared.Len() != 0 || shared.Equal(b) {
		t.Error("Destroy left a copy readable")
	}
	secret.Bytes{}.Destroy()
}
