package ledger

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"castellan.dev/internal/servicedb"

	"golang.org/x/mod/sumdb/note"
)

func changeKey(t *testing.T, l *Ledger) Key {
	t.Helper()
	key, err := l.ChangeKey(t.Context(), "anna@example.org", "yearly change")
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestKeyChangesAreFollowedFromThePinnedKey(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	l := f.open(t)
	keys := []Key{l.PublicKey()}
	for n := range 3 {
		fill(t, l, n*10, n*10+10)
		keys = append(keys, changeKey(t, l))
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		l = f.open(t)
		if got := l.PublicKey(); got.String() != keys[n+1].String() {
			t.Fatalf("after a restart: got key %s, want %s", got, keys[n+1])
		}
	}
	fill(t, l, 30, 40)
	kept := checkpoint(t, l)
	stranger := newSample(t).pin
	var proof bytes.Buffer
	if err := l.Prove(t.Context(), &proof, ID(entry(4))); err != nil {
		t.Fatal(err)
	}
	texts := map[string][]byte{
		"the whole":  export(t, l, Range{}),
		"a range":    export(t, l, Range{13, 29}),
		"one record": proof.Bytes(),
	}
	for name, text := range texts {
		for i, key := range keys {
			report := verify(t, text, VerifyOptions{Key: key.public, Checkpoints: []Checkpoint{kept}})
			if !report.Complete() || report.Key != keys[3].String() {
				t.Errorf("%s, key %d pinned: got key %s, problems %v, not checked %v", name, i, report.Key, report.Problems, report.NotChecked)
			}
		}
		if got, _ := verify(t, text, VerifyOptions{Key: stranger}).First(); got.What != Resigned {
			t.Errorf("%s, stranger's key pinned: got %+v, want %s", name, got, Resigned)
		}
	}
	first, current, err := l.Keys(t.Context())
	if err != nil || first.String() != keys[0].String() || current.String() != keys[3].String() {
		t.Errorf("got keys %s and %s (%v)", first, current, err)
	}
}

func TestRetiredKeyIsErasedAndSignsNothingLater(t *testing.T) {
	f := newFixture(t, servicedb.Config{})
	l := f.open(t)
	fill(t, l, 0, 10)
	retired := l.signer
	before := checkpoint(t, l)
	changeKey(t, l)
	private, err := loadKey(f.options.KeyFile)
	if err != nil || private.Equal(retired.private) {
		t.Errorf("got the retired key in the file (%v), want its successor", err)
	}
	if _, err := os.Stat(f.options.KeyFile + nextSuffix); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want no second key file", err)
	}
	whole := lines(bytes.Split(bytes.TrimSuffix(export(t, l, Range{}), []byte("\n")), []byte("\n")))
	forged := forgery{retired, whole[0], nil}.lines(t, whole.bodies(t))
	report := verify(t, forged.join(), VerifyOptions{Key: retired.key.public})
	if got, found := report.First(); !found || got.What != Resigned {
		t.Errorf("signed by the retired key: got %+v, want %s", got, Resigned)
	}
	report = verify(t, whole.join(), VerifyOptions{Key: retired.key.public, Checkpoints: []Checkpoint{before}})
	if !report.Complete() {
		t.Errorf("got problems %v, not checked %v", report.Problems, report.NotChecked)
	}
}

func TestKeyChangeThatThePreviousKeyDidNotSignIsRefused(t *testing.T) {
	l := openLedger(t)
	first := l.signer
	changeKey(t, l)
	_, changes := l.chain.texts()
	thief, err := newSigner(first.Name(), newFixtureKey(t))
	if err != nil {
		t.Fatal(err)
	}
	chain, err := newChain(first.key.text)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(text string, signers ...note.Signer) string {
		signed, err := note.Sign(&note.Note{Text: text}, signers...)
		if err != nil {
			t.Fatal(err)
		}
		return string(signed)
	}
	for name, text := range map[string]string{
		"signed by the next key only":     sign(chain.changeText(thief.key, 1), thief),
		"signed by the previous key only": sign(chain.changeText(thief.key, 1), first),
		"of another place":                strings.Replace(changes[0], "\n1\n1\n", "\n1\n2\n", 1),
		"to the same key":                 sign(chain.changeText(first.key, 1), first),
		"garbage":                         "x",
	} {
		if _, err := chain.extend(text); err == nil {
			t.Errorf("%s: it was taken", name)
		}
	}
	if _, err := chain.extend(changes[0]); err != nil {
		t.Errorf("the real one: %v", err)
	}
	whole := export(t, l, Range{})
	forged := replaced(whole, string(marshal(t, changes[0])), string(marshal(t, sign(chain0(t, first).changeText(thief.key, 1), thief))))
	if bytes.Equal(forged, whole) {
		t.Fatal("nothing was forged")
	}
	if got, found := verify(t, forged, VerifyOptions{Key: first.key.public}).First(); !found || !slices.Contains([]string{BadSignature, Resigned}, got.What) {
		t.Errorf("got %+v, want %s", got, BadSignature)
	}
}

func chain0(t *testing.T, s *signer) *keyChain {
	t.Helper()
	chain, err := newChain(s.key.text)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func newFixtureKey(t *testing.T) []byte {
	t.Helper()
	private, err := createKey(t.TempDir() + "/key")
	if err != nil {
		t.Fatal(err)
	}
	return private
}

func TestInterruptedKeyChangeIsFinishedOrForgotten(t *testing.T) {
	t.Run("before the record", func(t *testing.T) {
		f := newFixture(t, servicedb.Config{})
		l := f.open(t)
		key := l.PublicKey()
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := createKey(f.options.KeyFile + nextSuffix); err != nil {
			t.Fatal(err)
		}
		l = f.open(t)
		if got := l.PublicKey(); got.String() != key.String() {
			t.Errorf("got key %s, want still %s", got, key)
		}
		if _, err := os.Stat(f.options.KeyFile + nextSuffix); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("got %v, want the unused key removed", err)
		}
	})
	t.Run("after the record", func(t *testing.T) {
		f := newFixture(t, servicedb.Config{})
		l := f.open(t)
		copyFile(t, f.options.KeyFile, f.options.KeyFile+".kept")
		key := changeKey(t, l)
		if err := l.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		// As if the process had died before the next key took the previous one's place.
		copyFile(t, f.options.KeyFile, f.options.KeyFile+nextSuffix)
		copyFile(t, f.options.KeyFile+".kept", f.options.KeyFile)
		l = f.open(t)
		if got := l.PublicKey(); got.String() != key.String() {
			t.Errorf("got key %s, want %s", got, key)
		}
		if private, err := loadKey(f.options.KeyFile); err != nil || !key.public.Equal(private.Public()) {
			t.Errorf("the key file holds another key (%v)", err)
		}
	})
	t.Run("with a stranger's key", func(t *testing.T) {
		f := newFixture(t, servicedb.Config{})
		if err := f.open(t).Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(f.options.KeyFile); err != nil {
			t.Fatal(err)
		}
		if _, err := createKey(f.options.KeyFile); err != nil {
			t.Fatal(err)
		}
		if _, err := f.tryOpen(t); err == nil {
			t.Error("a ledger opened with a key that is not its own")
		}
	})
}

func TestKeyChangesWhileOthersAppend(t *testing.T) {
	l := openLedger(t)
	pin := l.PublicKey().public
	var group sync.WaitGroup
	group.Go(func() { fill(t, l, 0, 2000) })
	for range 5 {
		changeKey(t, l)
	}
	group.Wait()
	report := verify(t, export(t, l, Range{}), VerifyOptions{Key: pin, Checkpoints: []Checkpoint{checkpoint(t, l)}})
	if !report.Complete() || report.Size != 2006 {
		t.Errorf("got %d records, problems %v, not checked %v", report.Size, report.Problems, report.NotChecked)
	}
}

func TestPinnedKeyIsReadInBothForms(t *testing.T) {
	key := openLedger(t).PublicKey()
	der, err := x509.MarshalPKIXPublicKey(key.public)
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{
		"line": []byte(key.String() + "\n"),
		"PEM":  pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}),
	} {
		if got, err := ParsePublicKey(text); err != nil || !got.Equal(key.public) {
			t.Errorf("%s: got %v (%v)", name, got, err)
		}
	}
	for name, text := range map[string]string{"nothing": "", "a word": "key", "a changed line": strings.Replace(key.String(), "+A", "+B", 1)} {
		if _, err := ParsePublicKey([]byte(text)); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}
