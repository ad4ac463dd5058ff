package ledger

import (
	"bytes"
	"strings"
	"testing"
)

// Whatever a file says, the verifier ends, and nothing but an intact export or proof passes.
func FuzzVerify(f *testing.F) {
	l := newFuzzLedger(f)
	var whole, part, proof bytes.Buffer
	for _, write := range []func() error{
		func() error { return l.Export(f.Context(), &whole, Range{}) },
		func() error { return l.Export(f.Context(), &part, Range{3, 7}) },
		func() error { return l.Prove(f.Context(), &proof, ID(entry(4))) },
	} {
		if err := write(); err != nil {
			f.Fatal(err)
		}
	}
	pin := l.PublicKey().public
	kept := []Checkpoint{checkpoint(f, l)}
	genuine := map[string]bool{}
	for _, text := range []string{whole.String(), part.String(), proof.String()} {
		genuine[text] = true
		f.Add([]byte(text))
		f.Add([]byte(strings.Replace(text, `"from":"3"`, `"from":"9223372036854775807"`, 1)))
		f.Add([]byte(strings.Replace(text, `\n12\n`, `\n9223372036854775807\n`, 1)))
		f.Add([]byte(strings.Replace(text, `"hashes"`, `"Hashes"`, 1)))
		f.Add([]byte(strings.Replace(text, `"left"`, `"right"`, 1)))
		f.Add([]byte(text[:len(text)/2]))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := Verify(bytes.NewReader(text), VerifyOptions{Key: pin, Checkpoints: kept})
		if err != nil {
			return
		}
		if report.OK() && !sameRecords(text, genuine) {
			t.Errorf("it passes: %q", text)
		}
		if _, err := ReadCheckpoints(bytes.NewReader(text)); err != nil {
			return
		}
	})
}

// sameRecords reports whether every record in the text is, byte for byte, in a genuine file: JSON leaves
// room around them that no hash covers.
func sameRecords(text []byte, genuine map[string]bool) bool {
	for _, record := range strings.Split(string(text), `"record":`)[1:] {
		body, _, _ := strings.Cut(record, "\n")
		found := false
		for whole := range genuine {
			found = found || strings.Contains(whole, strings.TrimRight(body, "} \t\r"))
		}
		if !found {
			return false
		}
	}
	return true
}

func newFuzzLedger(f *testing.F) *Ledger {
	f.Helper()
	l := openLedger(f)
	for n := range 10 {
		if _, err := l.Append(f.Context(), "privileged", entry(n)); err != nil {
			f.Fatal(err)
		}
	}
	if _, err := l.ChangeKey(f.Context(), "anna", "test"); err != nil {
		f.Fatal(err)
	}
	return l
}
