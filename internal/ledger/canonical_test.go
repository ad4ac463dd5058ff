package ledger

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities/record"

	"github.com/google/go-cmp/cmp"
)

// The files are the test vectors that RFC 8785 refers to in its appendix F.
func TestCanonicalFormMatchesTheVectorsOfRFC8785(t *testing.T) {
	inputs, err := filepath.Glob("testdata/rfc8785/*.in.json")
	if err != nil || len(inputs) != 6 {
		t.Fatalf("got %d vectors (%v), want 6", len(inputs), err)
	}
	for _, path := range inputs {
		t.Run(filepath.Base(path), func(t *testing.T) {
			input, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want, err := os.ReadFile(strings.Replace(path, ".in.", ".out.", 1))
			if err != nil {
				t.Fatal(err)
			}
			got, err := Canonical(input)
			if err != nil || string(got) != string(want) {
				t.Errorf("got %q (%v), want %q", got, err, want)
			}
			if !isCanonical(want, Record{}) || isCanonical(input, Record{}) {
				t.Error("the canonical form is not told from another")
			}
		})
	}
}

// RFC 8785, appendix B.
func TestNumbersAreWrittenAsInAppendixB(t *testing.T) {
	for bits, want := range map[string]string{
		"0000000000000000": "0", "8000000000000000": "0", "0000000000000001": "5e-324", "8000000000000001": "-5e-324",
		"7fefffffffffffff": "1.7976931348623157e+308", "ffefffffffffffff": "-1.7976931348623157e+308",
		"4340000000000000": "9007199254740992", "c340000000000000": "-9007199254740992",
		"4430000000000000": "295147905179352830000", "44b52d02c7e14af5": "9.999999999999997e+22",
		"44b52d02c7e14af6": "1e+23", "44b52d02c7e14af7": "1.0000000000000001e+23", "444b1ae4d6e2ef4e": "999999999999999700000",
		"444b1ae4d6e2ef4f": "999999999999999900000", "444b1ae4d6e2ef50": "1e+21", "3eb0c6f7a0b5ed8c": "9.999999999999997e-7",
		"3eb0c6f7a0b5ed8d": "0.000001", "41b3de4355555553": "333333333.3333332", "41b3de4355555554": "333333333.33333325",
		"41b3de4355555555": "333333333.3333333", "41b3de4355555556": "333333333.3333334", "41b3de4355555557": "333333333.33333343",
		"becbf647612f3696": "-0.0000033333333333333333", "43143ff3c1cb0959": "1424953923781206.2",
	} {
		raw, err := strconv.ParseUint(bits, 16, 64)
		if err != nil {
			t.Fatal(err)
		}
		text := strconv.FormatFloat(math.Float64frombits(raw), 'e', -1, 64)
		got, err := Canonical([]byte(text))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s (%v), want %s", bits, got, err, want)
		}
	}
}

// RFC 8785, section 3.2.3: names sort by UTF-16 code units, not by bytes or code points.
func TestNamesSortByUTF16(t *testing.T) {
	input := `{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}`
	got, err := Canonical([]byte(input))
	if err != nil {
		t.Fatal(err)
	}
	at := -1
	for _, value := range []string{"Carriage Return", "One", "Control", "Latin Small", "Euro Sign", "Emoji", "Hebrew"} {
		next := strings.Index(string(got), value)
		if next <= at {
			t.Errorf("%q stands at %d, want after %d in %s", value, next, at, got)
		}
		at = next
	}
}

func TestTextThatJSONWouldChangeIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"a name twice":       `{"a":"1","a":"2"}`,
		"half a surrogate":   `{"a":"\ud800"}`,
		"invalid UTF-8":      "{\"a\":\"\xff\"}",
		"not a number":       `{"a":NaN}`,
		"a number too large": `{"a":1e400}`,
		"two values":         `{} {}`,
	} {
		if got, err := Canonical([]byte(text)); err == nil {
			t.Errorf("%s: got %s, want an error", name, got)
		}
	}
}

// fullRecord has a value in every field, whichever are added later, and every kind of character.
func fullRecord(t *testing.T) Record {
	t.Helper()
	r := Record{Index: math.MaxInt64}
	var set func(v reflect.Value)
	set = func(v reflect.Value) {
		switch {
		case v.Type() == reflect.TypeFor[time.Time]():
			v.Set(reflect.ValueOf(start.Add(123456789 * time.Nanosecond)))
		case v.Kind() == reflect.Struct:
			for i := range v.NumField() {
				set(v.Field(i))
			}
		case v.Kind() == reflect.String:
			var all strings.Builder
			for c := range rune(0x180) {
				all.WriteRune(c)
			}
			v.SetString(all.String() + "<&> \u2028\u2029 \ufffd \ufb33 😀")
		case v.Kind() == reflect.Int64:
			v.SetInt(math.MaxInt64)
		case v.Kind() == reflect.Uint64:
			v.SetUint(math.MaxUint64)
		case v.Kind() == reflect.Map:
			v.Set(reflect.ValueOf(map[string]string{"\U0001F600": "emoji", "\ufb33": "dalet", "\u20ac": "euro", "\r": "cr", "1": "one", "": "none"}))
		default:
			t.Fatalf("a record has a field of type %v, which the canonical form does not know", v.Type())
		}
	}
	set(reflect.ValueOf(&r).Elem())
	return r
}

func TestRecordsAreEncodedCanonically(t *testing.T) {
	bare := Record{version, "id", 0, start, "privileged", record.Entry{Workflow: "w", Step: "s", Phase: record.Fact, At: start}}
	for name, r := range map[string]Record{"full": fullRecord(t), "bare": bare, "plausible": {version, ID(entry(1)), 7, start, "observe", entry(1)}} {
		text, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Canonical(text)
		if err != nil {
			t.Fatal(err)
		}
		got, err := encode(r)
		if err != nil || string(got) != string(want) {
			t.Errorf("%s: got\n%s (%v), want\n%s", name, got, err, want)
		}
		back, err := decodeRecord(got)
		if diff := cmp.Diff(r, back); err != nil || diff != "" {
			t.Errorf("%s: decoding changed it (%v, -want +got):\n%s", name, err, diff)
		}
		decoder := json.NewDecoder(bytes.NewReader(got))
		for {
			token, err := decoder.Token()
			if err != nil {
				break
			}
			if _, number := token.(float64); number {
				t.Errorf("%s: the record holds the number %v", name, token)
			}
		}
	}
}

func TestRecordWithALaterFieldIsStillCanonical(t *testing.T) {
	body, err := encode(Record{version, ID(entry(1)), 7, start, "observe", entry(1)})
	if err != nil {
		t.Fatal(err)
	}
	later := replaced(body, `"id":`, `"hint":"x","id":`)
	r, err := decodeRecord(later)
	if err != nil || !isCanonical(later, r) {
		t.Errorf("%s (%v) is not taken for canonical", later, err)
	}
	if unsorted := replaced(body, `"id":`, `"zeal":"x","id":`); isCanonical(unsorted, r) {
		t.Errorf("%s is taken for canonical", unsorted)
	}
}

func TestDifferentEntriesNeverShareAnID(t *testing.T) {
	seen := map[string]record.Entry{}
	for _, e := range []record.Entry{
		{Workflow: "a", Step: "b", Epoch: 1, Phase: record.Intent},
		{Workflow: "a", Step: "b", Epoch: 1, Phase: record.Outcome},
		{Workflow: "a", Step: "b", Epoch: 11, Phase: record.Intent},
		{Workflow: "a", Step: "b1", Epoch: 1, Phase: record.Intent},
		{Workflow: "ab", Step: "", Epoch: 1, Phase: record.Intent},
		{Workflow: "a1:b", Step: "", Epoch: 1, Phase: record.Intent},
		{Workflow: "", Step: "ab", Epoch: 1, Phase: record.Intent},
	} {
		id := ID(e)
		if other, found := seen[id]; found {
			t.Errorf("%+v and %+v share the id %s", e, other, id)
		}
		seen[id] = e
	}
	if got, want := ID(entry(0)), ID(record.Entry{Workflow: "rotate/target-0", Step: "rotate.set", Epoch: 7, Phase: record.Intent, Reason: "other"}); got != want {
		t.Errorf("got %s, want %s: the id depends on workflow, step, epoch and phase only", got, want)
	}
}
