package ledger

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"castellan.dev/activities/record"
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
			if !isCanonical(want) {
				t.Error("the canonical form is not taken for canonical")
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

func TestRecordsHaveNoNumbersAndSurviveDecoding(t *testing.T) {
	e := entry(1)
	e.Epoch = math.MaxUint64
	e.Reason = "<&> \u2028 \u007f é 😀 \"\\"
	e.Facts["\U0001F600"], e.Facts["\ufb33"] = "emoji", "dalet"
	r := Record{version, ID(e), math.MaxInt64, start.Add(123456789 * time.Nanosecond), "privileged", e}
	body, err := encode(r)
	if err != nil {
		t.Fatal(err)
	}
	if !isCanonical(body) {
		t.Errorf("%s is not canonical", body)
	}
	decoder := json.NewDecoder(strings.NewReader(string(body)))
	for {
		token, err := decoder.Token()
		if err != nil {
			break
		}
		if _, number := token.(float64); number {
			t.Errorf("the record holds the number %v", token)
		}
	}
	back, err := decodeRecord(body)
	if err != nil {
		t.Fatal(err)
	}
	again, err := encode(back)
	if err != nil || string(again) != string(body) {
		t.Errorf("got %s (%v), want %s", again, err, body)
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
