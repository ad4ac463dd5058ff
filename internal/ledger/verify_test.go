package ledger

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"castellan.dev/activities/record"
	"castellan.dev/internal/servicedb"

	"golang.org/x/mod/sumdb/tlog"
)

// lines is an export taken apart: the header, then anything, then the end.
type lines [][]byte

func (l lines) join() []byte { return append(bytes.Join(l, []byte("\n")), '\n') }

// find returns the line number of the record with the given index.
func (l lines) find(index int) int {
	return slices.IndexFunc(l, func(line []byte) bool {
		return bytes.Contains(line, fmt.Appendf(nil, `,"index":"%d",`, index))
	})
}

// bodies returns the records' exact bytes.
func (l lines) bodies(t *testing.T) [][]byte {
	t.Helper()
	var list [][]byte
	for _, text := range l[1:] {
		var line exportLine
		if err := json.Unmarshal(text, &line); err != nil {
			t.Fatal(err)
		}
		if line.Record != nil {
			list = append(list, line.Record)
		}
	}
	return list
}

// forgery is a history that adds up, made by whoever holds the signer.
type forgery struct {
	signer *signer
	header []byte
	stops  []int // sizes at which a checkpoint stands
}

func (f forgery) lines(t *testing.T, bodies [][]byte) lines {
	t.Helper()
	out := lines{f.header}
	tree := &fringe{}
	for _, body := range bodies {
		hashes, err := json.Marshal(tree.push(tlog.RecordHash(body)))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Appendf(nil, `{"hashes":%s,"record":%s}`, hashes, body))
		if slices.Contains(f.stops, int(tree.size)) {
			out = append(out, marshal(t, exportLine{Checkpoint: f.sign(t, tree).Note}))
		}
	}
	return append(out, marshal(t, exportLine{End: &exportEnd{Checkpoint: f.sign(t, tree).Note}}))
}

func (f forgery) sign(t *testing.T, tree *fringe) Checkpoint {
	t.Helper()
	c, err := signCheckpoint(f.signer, tree.size, tree.root())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func marshal(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// renumbered rewrites a record's index.
func renumbered(t *testing.T, body []byte, index int64) []byte {
	t.Helper()
	r, err := decodeRecord(body)
	if err != nil {
		t.Fatal(err)
	}
	r.Index = index
	text, err := encode(r)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func replaced(text []byte, old, by string) []byte {
	return bytes.Replace(slices.Clone(text), []byte(old), []byte(by), 1)
}

// sample is a log of 41 records with checkpoints of 1, 11, 21, 31 and 41.
type sample struct {
	ledger *Ledger
	text   []byte
	kept   []Checkpoint // those checkpoints
	pin    ed25519.PublicKey
}

func newSample(t *testing.T) sample {
	t.Helper()
	l := openLedger(t)
	s := sample{ledger: l, kept: []Checkpoint{checkpoint(t, l)}, pin: l.PublicKey().public}
	for n := 0; n < 40; n += 10 {
		for i := range 10 {
			mustAppend(t, l, entry(n+i))
		}
		s.kept = append(s.kept, checkpoint(t, l))
	}
	s.text = export(t, l, Range{})
	return s
}

func (s sample) lines() lines {
	return lines(bytes.Split(bytes.TrimSuffix(bytes.Clone(s.text), []byte("\n")), []byte("\n")))
}

func (s sample) last() Checkpoint { return s.kept[len(s.kept)-1] }

func TestIntactExportIsIntact(t *testing.T) {
	s := newSample(t)
	report := verify(t, s.text, VerifyOptions{Key: s.pin, Checkpoints: s.kept})
	if !report.Complete() || len(report.Findings) != 0 || report.Size != 41 || report.Root != s.last().Root.String() {
		t.Errorf("got size %d, problems %v, findings %v, not checked %v", report.Size, report.Problems, report.Findings, report.NotChecked)
	}
}

func TestTamperingIsFoundAndNamed(t *testing.T) {
	s := newSample(t)
	own := forgery{s.ledger.signer, s.lines()[0], []int{1, 11, 21, 31, 41}}
	honest := own.lines(t, s.lines().bodies(t))
	if !bytes.Equal(honest.join(), s.text) {
		t.Fatal("the forger's tools do not even reproduce the honest export")
	}
	// withOld puts the honest checkpoints into a forged export: the forger has no key.
	withOld := func(forged lines) lines {
		honest := s.lines()
		var notes [][]byte
		for _, line := range honest {
			if bytes.HasPrefix(line, []byte(`{"checkpoint"`)) {
				notes = append(notes, line)
			}
		}
		for i, line := range forged {
			if bytes.HasPrefix(line, []byte(`{"checkpoint"`)) {
				forged[i], notes = notes[0], notes[1:]
			}
		}
		forged[len(forged)-1] = honest[len(honest)-1]
		return forged
	}
	edit := func(l lines, index int) { l[l.find(index)] = replaced(l[l.find(index)], "2/3", "1/3") }

	for name, test := range map[string]struct {
		forge       func(l lines) lines
		what        string
		first, last int64 // the records that must be named
	}{
		"a record is edited":        {func(l lines) lines { edit(l, 7); return l }, Edited, 7, 7},
		"the last record is edited": {func(l lines) lines { edit(l, 40); return l }, Edited, 40, 40},
		"a submitter is edited": {func(l lines) lines {
			l[l.find(23)] = replaced(l[l.find(23)], `"submitter":"privileged/web1"`, `"submitter":"privileged/web2"`)
			return l
		}, Edited, 23, 23},
		"a record is edited together with its hash": {func(l lines) lines {
			edit(l, 7)
			var line exportLine
			if err := json.Unmarshal(l[l.find(7)], &line); err != nil {
				t.Fatal(err)
			}
			line.Hashes[0] = tlog.RecordHash(line.Record)
			hashes := marshal(t, line.Hashes)
			l[l.find(7)] = fmt.Appendf(nil, `{"hashes":%s,"record":%s}`, hashes, line.Record)
			return l
		}, Edited, 6, 7},
		"a record is edited together with all hashes": {func(l lines) lines {
			edit(l, 17)
			return withOld(own.lines(t, l.bodies(t)))
		}, Edited, 11, 20},
		"a record is dropped":         {func(l lines) lines { return slices.Delete(l, l.find(7), l.find(7)+1) }, Missing, 7, 7},
		"some records are dropped":    {func(l lines) lines { return slices.Delete(l, l.find(12), l.find(16)) }, Missing, 12, 15},
		"the first record is dropped": {func(l lines) lines { return slices.Delete(l, 1, 2) }, Missing, 0, 0},
		"a record is dropped and the rest renumbered": {func(l lines) lines {
			bodies := slices.Delete(l.bodies(t), 17, 18)
			for i := 17; i < len(bodies); i++ {
				bodies[i] = renumbered(t, bodies[i], int64(i))
			}
			return withOld(own.lines(t, bodies))
		}, Edited, 11, 20},
		"two records are swapped": {func(l lines) lines {
			a, b := l.find(5), l.find(9)
			l[a], l[b] = l[b], l[a]
			return l
		}, Displaced, 5, 5},
		"two neighbours are swapped": {func(l lines) lines {
			a, b := l.find(5), l.find(6)
			l[a], l[b] = l[b], l[a]
			return l
		}, Displaced, 5, 5},
		"two records are swapped and renumbered": {func(l lines) lines {
			bodies := l.bodies(t)
			bodies[13], bodies[15] = renumbered(t, bodies[15], 13), renumbered(t, bodies[13], 15)
			return withOld(own.lines(t, bodies))
		}, Edited, 11, 20},
		"a record stands twice": {func(l lines) lines { return slices.Insert(l, l.find(8), l[l.find(7)]) }, Duplicated, 7, 7},
		"an id occurs twice, signed": {func(l lines) lines {
			bodies := l.bodies(t)
			return own.lines(t, append(bodies, renumbered(t, bodies[3], 41)))
		}, Duplicated, 41, 41},
		"the last lines are cut off": {func(l lines) lines { return l[:l.find(30)] }, Truncated, 30, 30},
		"the end line is cut off":    {func(l lines) lines { return l[:len(l)-1] }, Truncated, 41, 41},
		"the last records are cut off but the end stays": {func(l lines) lines {
			return slices.Delete(l, l.find(35), len(l)-1)
		}, Truncated, 35, 40},
		"a line is garbage": {func(l lines) lines { l[l.find(7)] = []byte("{"); return l }, Malformed, 7, 7},
		"a line breaks off": {func(l lines) lines { l[l.find(7)] = l[l.find(7)][:100]; return l }, Malformed, 7, 7},
		"a record is not canonical, signed": {func(l lines) lines {
			bodies := l.bodies(t)
			bodies[9] = append([]byte("{ "), bodies[9][1:]...)
			return own.lines(t, bodies)
		}, Edited, 9, 9},
		"a record has another's id, signed": {func(l lines) lines {
			bodies := l.bodies(t)
			bodies[9] = replaced(bodies[9], `"step":"rotate.set"`, `"step":"rotate.bet"`)
			return own.lines(t, bodies)
		}, Edited, 9, 9},
		"a key change that never was, signed": {func(l lines) lines {
			r := Record{Version: version, Index: 41, Received: start.AddDate(1, 0, 0), Submitter: systemActor, Entry: record.Entry{
				Workflow: systemWorkflow, Step: stepKeyChange, Epoch: 1, Phase: record.Fact, At: start, Facts: map[string]string{factNote: "?"}}}
			r.ID = ID(r.Entry)
			body, err := encode(r)
			if err != nil {
				t.Fatal(err)
			}
			return own.lines(t, append(l.bodies(t), body))
		}, Resigned, 41, 41},
		"the last checkpoint is of fewer records": {func(l lines) lines {
			l[len(l)-1] = marshal(t, exportLine{End: &exportEnd{Checkpoint: s.kept[3].Note}})
			return l
		}, Malformed, -1, -1},
		"a signature is changed": {func(l lines) lines {
			text := string(s.last().Note)
			at := strings.LastIndex(text, "=")
			l[len(l)-1] = marshal(t, exportLine{End: &exportEnd{Checkpoint: text[:at-9] + flip(text[at-9]) + text[at-8:]}})
			return l
		}, BadSignature, -1, -1},
		"something is appended": {func(l lines) lines { return append(l, l[l.find(40)]) }, Malformed, -1, -1},
		"the file is empty":     {func(lines) lines { return nil }, Malformed, -1, -1},
	} {
		t.Run(name, func(t *testing.T) {
			forged := test.forge(s.lines())
			report := verify(t, forged.join(), VerifyOptions{Key: s.pin, Checkpoints: s.kept[:1]})
			got, found := report.First()
			if !found || got.What != test.what || got.First != test.first || got.Last != test.last {
				t.Errorf("got %+v, want %s of records %d to %d first\nall: %+v", got, test.what, test.first, test.last, report.Problems)
			}
		})
	}
}

// flip returns another base64 character.
func flip(c byte) string {
	if c == 'A' {
		return "B"
	}
	return "A"
}

func TestWholeHistoriesAreComparedWithWhatTheVerifierHolds(t *testing.T) {
	s := newSample(t)
	own := forgery{s.ledger.signer, s.lines()[0], []int{11, 21}}
	cut := own.lines(t, s.lines().bodies(t)[:21])
	cut[0] = replaced(cut[0], `"to":"41"`, `"to":"21"`)

	bodies := s.lines().bodies(t)
	bodies[26] = replaced(bodies[26], "2/3", "1/3")
	fork := own.lines(t, bodies)

	other := newSample(t)
	attacker := forgery{other.ledger.signer, other.lines()[0], []int{11}}
	resigned := attacker.lines(t, append(other.lines().bodies(t)[:1], s.lines().bodies(t)[1:]...))

	thief, err := newSigner(s.ledger.signer.Name(), other.ledger.signer.private)
	if err != nil {
		t.Fatal(err)
	}
	sameName := forgery{thief, replaced(s.lines()[0], s.ledger.signer.key.text, thief.key.text), nil}.lines(t, s.lines().bodies(t))

	for name, test := range map[string]struct {
		text       []byte
		options    VerifyOptions
		what       string // empty: nothing is broken
		first      int64
		notChecked int // how many sentences
	}{
		"intact, nothing held":                           {s.text, VerifyOptions{}, "", 0, 2},
		"intact, only the key held":                      {s.text, VerifyOptions{Key: s.pin}, "", 0, 1},
		"intact, only a checkpoint held":                 {s.text, VerifyOptions{Checkpoints: s.kept[4:]}, "", 0, 1},
		"intact, key and checkpoint held":                {s.text, VerifyOptions{Key: s.pin, Checkpoints: s.kept[2:3]}, "", 0, 0},
		"cut off, nothing held":                          {cut.join(), VerifyOptions{}, "", 0, 2},
		"cut off, earlier checkpoint held":               {cut.join(), VerifyOptions{Key: s.pin, Checkpoints: s.kept[1:2]}, "", 0, 0},
		"cut off, later checkpoint held":                 {cut.join(), VerifyOptions{Key: s.pin, Checkpoints: s.kept[4:]}, Truncated, 21, 0},
		"forked by the owner, nothing held":              {fork.join(), VerifyOptions{Key: s.pin}, "", 0, 1},
		"forked after what is held":                      {fork.join(), VerifyOptions{Key: s.pin, Checkpoints: s.kept[1:3]}, "", 0, 0},
		"forked by the owner, checkpoints held":          {fork.join(), VerifyOptions{Key: s.pin, Checkpoints: s.kept}, Forked, 21, 0},
		"signed by an attacker, nothing held":            {resigned.join(), VerifyOptions{}, "", 0, 2},
		"signed by an attacker, key held":                {resigned.join(), VerifyOptions{Key: s.pin}, Resigned, -1, 1},
		"signed by an attacker, checkpoint held":         {resigned.join(), VerifyOptions{Checkpoints: s.kept[4:]}, OtherLog, -1, 1},
		"signed by a thief of the name, key held":        {sameName.join(), VerifyOptions{Key: s.pin}, Resigned, -1, 1},
		"signed by a thief of the name, checkpoint held": {sameName.join(), VerifyOptions{Checkpoints: s.kept[4:]}, Resigned, -1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			report := verify(t, test.text, test.options)
			got, found := report.First()
			if test.what == "" && found {
				t.Fatalf("got %+v, want nothing broken", report.Problems)
			}
			named := slices.ContainsFunc(report.Problems, func(p Problem) bool { return p.What == test.what && p.First == test.first })
			if test.what != "" && !named {
				t.Errorf("got %+v first, want %s at %d\nall: %+v", got, test.what, test.first, report.Problems)
			}
			if test.what == "" && len(report.NotChecked) != test.notChecked {
				t.Errorf("not checked: got %q, want %d sentences", report.NotChecked, test.notChecked)
			}
			if report.Complete() != (test.what == "" && test.notChecked == 0) {
				t.Errorf("got complete %t", report.Complete())
			}
		})
	}
}

func TestEarlierExportServesAsCheckpoint(t *testing.T) {
	s := newSample(t)
	mustAppend(t, s.ledger, entry(40), entry(41))
	later := export(t, s.ledger, Range{})
	for name, text := range map[string][]byte{
		"an export":                  s.text,
		"a checkpoint":               []byte(s.last().Note),
		"a file of the second place": []byte(s.kept[1].Note + "\n" + s.last().Note + "\n"),
	} {
		kept, err := ReadCheckpoints(bytes.NewReader(text))
		if err != nil || kept[len(kept)-1].Size != 41 {
			t.Errorf("%s: got %v (%v), want one of 41 records last", name, kept, err)
		}
		if report := verify(t, later, VerifyOptions{Key: s.pin, Checkpoints: kept}); !report.Complete() {
			t.Errorf("%s: got %v, %v", name, report.Problems, report.NotChecked)
		}
	}
	for name, text := range map[string]string{"nothing": "", "garbage": "x\ny\nz\n", "half an export": string(s.text[:len(s.text)/3])} {
		if kept, err := ReadCheckpoints(strings.NewReader(text)); err == nil && name != "half an export" {
			t.Errorf("%s: got %v, want an error", name, kept)
		}
	}
}

func TestRangesAreProvenByThemselves(t *testing.T) {
	s := newSample(t)
	for _, part := range []Range{{0, 1}, {0, 13}, {7, 8}, {5, 29}, {32, 41}, {40, 41}, {20, 20}} {
		text := export(t, s.ledger, part)
		report := verify(t, text, VerifyOptions{Key: s.pin, Checkpoints: s.kept[4:]})
		if !report.Complete() || report.From != part.From || report.To != part.To || report.Size != 41 {
			t.Errorf("%v: got %d to %d of %d, problems %v, not checked %v", part, report.From, report.To, report.Size, report.Problems, report.NotChecked)
		}
		if part.To == part.From {
			continue
		}
		l := lines(bytes.Split(bytes.TrimSuffix(text, []byte("\n")), []byte("\n")))
		at := l.find(int(part.From))
		l[at] = replaced(l[at], `"run":"run-1"`, `"run":"run-2"`)
		l[at] = replaced(l[at], `"origin":"castellan`, `"origin":"Castellan`)
		if got, found := verify(t, l.join(), VerifyOptions{Key: s.pin}).First(); !found || got.First != part.From {
			t.Errorf("%v: got %+v, want record %d named", part, got, part.From)
		}
	}
	if err := s.ledger.Export(t.Context(), &bytes.Buffer{}, Range{40, 42}); err == nil {
		t.Error("records that are not there were exported")
	}
}

func TestOneRecordIsProvenWithoutTheRest(t *testing.T) {
	s := newSample(t)
	var out bytes.Buffer
	id := ID(entry(16))
	if err := s.ledger.Prove(t.Context(), &out, id); err != nil {
		t.Fatal(err)
	}
	proof := out.Bytes()
	report := verify(t, proof, VerifyOptions{Key: s.pin, Checkpoints: s.kept[4:]})
	if !report.Complete() || report.From != 17 || report.To != 18 {
		t.Errorf("got records %d to %d, problems %v, not checked %v", report.From, report.To, report.Problems, report.NotChecked)
	}
	if bytes.Contains(proof, []byte("target-7")) {
		t.Error("the proof shows other records")
	}
	if got := verify(t, proof, VerifyOptions{}); !got.OK() || len(got.NotChecked) != 2 {
		t.Errorf("got %v, not checked %v, want two sentences", got.Problems, got.NotChecked)
	}
	other := newSample(t)
	for name, test := range map[string]struct {
		text    []byte
		options VerifyOptions
		what    string
	}{
		"edited":              {replaced(proof, "2/3", "1/3"), VerifyOptions{Key: s.pin}, Edited},
		"another path":        {replaced(proof, `"path":["`, `"path":["AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","`), VerifyOptions{Key: s.pin}, Edited},
		"another key":         {proof, VerifyOptions{Key: other.pin}, Resigned},
		"another log's":       {proof, VerifyOptions{Key: s.pin, Checkpoints: other.kept}, OtherLog},
		"cut short":           {proof[:len(proof)/2], VerifyOptions{Key: s.pin}, Malformed},
		"an added second one": {append(bytes.Clone(proof), proof...), VerifyOptions{Key: s.pin}, Malformed},
	} {
		if got, found := verify(t, test.text, test.options).First(); !found || got.What != test.what {
			t.Errorf("%s: got %+v, want %s", name, got, test.what)
		}
	}
	if err := s.ledger.Prove(t.Context(), &out, "nothing"); err == nil {
		t.Error("a record that is not there was proven")
	}
}

func TestIntentsAndOutcomesArePaired(t *testing.T) {
	l := openLedger(t)
	open, failed, lone := entry(0), entry(2), entry(5)
	mustAppend(t, l, open, failed)
	outcome := entry(3)
	outcome.Step, outcome.Result = outcome.Step+"/failed", "failed"
	mustAppend(t, l, outcome, lone)
	succeeded := entry(3) // a later attempt of the step that failed before
	mustAppend(t, l, succeeded)
	report := verify(t, export(t, l, Range{}), VerifyOptions{})
	if !report.OK() {
		t.Errorf("got %v, want nothing broken", report.Problems)
	}
	if len(report.Findings) != 2 || report.Findings[0].What != OpenIntent || report.Findings[0].ID != ID(open) ||
		report.Findings[1].What != LoneOutcome || report.Findings[1].ID != ID(lone) {
		t.Errorf("got findings %+v, want the open intent and the lone outcome", report.Findings)
	}
}

func TestDatabaseTamperingShowsInTheExport(t *testing.T) {
	for name, statement := range map[string]string{
		"edited":       `UPDATE ledger_records SET body = replace(body, '2/3', '1/3') WHERE idx = 7`,
		"deleted":      `DELETE FROM ledger_records WHERE idx = 7`,
		"hash changed": `UPDATE ledger_records SET hashes = zeroblob(length(hashes)) WHERE idx = 7`,
		"swapped":      `UPDATE ledger_records SET body = (SELECT body FROM ledger_records WHERE idx = 9) WHERE idx = 7`,
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, servicedb.Config{})
			l := f.open(t)
			for n := range 20 {
				mustAppend(t, l, entry(n))
			}
			c := checkpoint(t, l)
			tamper(t, f, `DROP TRIGGER ledger_records_keep`, `DROP TRIGGER ledger_records_stay`, statement)
			var out bytes.Buffer
			if err := l.Log.Export(t.Context(), &out, Range{}); err != nil {
				t.Fatal(err)
			}
			report := verify(t, out.Bytes(), VerifyOptions{Key: l.PublicKey().public, Checkpoints: []Checkpoint{c}})
			if got, found := report.First(); !found || got.First != 7 || got.Last != 7 {
				t.Errorf("got %+v, want record 7 named", report.Problems)
			}
		})
	}
}

func TestReportReadsLikeSentences(t *testing.T) {
	s := newSample(t)
	for name, test := range map[string]struct {
		options VerifyOptions
		text    []byte
		want    []string
	}{
		"intact":     {VerifyOptions{Key: s.pin, Checkpoints: s.kept[4:]}, s.text, []string{"the evidence is intact", "since then the log only grew"}},
		"unanchored": {VerifyOptions{}, s.text, []string{"NOT CHECKED  who signed", "NOT CHECKED  whether the end was cut off", "nothing is broken in what could be checked"}},
		"broken":     {VerifyOptions{}, replaced(s.text, "2/3", "1/3"), []string{"BROKEN       edited: record 1 (" + ID(entry(0)) + ")", "the evidence is BROKEN"}},
	} {
		var out strings.Builder
		if err := verify(t, test.text, test.options).Write(&out); err != nil {
			t.Fatal(err)
		}
		for _, want := range test.want {
			if !strings.Contains(out.String(), want) {
				t.Errorf("%s: got\n%s\nwant %q in it", name, out.String(), want)
			}
		}
	}
}
