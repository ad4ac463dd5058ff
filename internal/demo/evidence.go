package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"

	"castellan.dev/internal/ledger"
)

// maxExport bounds an export of the show.
const maxExport = 256 << 20

// export reads the whole ledger and keeps a copy as a file.
func (s *show) export(ctx context.Context, name string) ([]byte, error) {
	stream, err := s.api.Evidence(ctx, url.Values{})
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	text, err := io.ReadAll(io.LimitReader(stream, maxExport))
	if err != nil {
		return nil, fmt.Errorf("read evidence: %w", err)
	}
	return text, os.WriteFile(s.layout.evidence(name), text, 0o600)
}

// pins returns what an auditor has kept since the beginning: the key, and a signed checkpoint.
func pins(early []byte) (ledger.VerifyOptions, error) {
	var header struct{ Key string }
	first, _, _ := bytes.Cut(early, []byte("\n"))
	if err := json.Unmarshal(first, &header); err != nil {
		return ledger.VerifyOptions{}, fmt.Errorf("read early export: %w", err)
	}
	key, err := ledger.ParsePublicKey([]byte(header.Key))
	if err != nil {
		return ledger.VerifyOptions{}, err
	}
	checkpoints, err := ledger.ReadCheckpoints(bytes.NewReader(early))
	return ledger.VerifyOptions{Key: key, Checkpoints: checkpoints}, err
}

// evidence exports the ledger and verifies it with what was pinned in the beginning.
func evidence(ctx context.Context, s *show) (string, error) {
	options, err := pins(s.pinned)
	if err != nil {
		return "", err
	}
	text, err := s.export(ctx, "whole")
	if err != nil {
		return "", err
	}
	report, err := ledger.Verify(bytes.NewReader(text), options)
	if err != nil {
		return "", err
	}
	if problem, bad := report.First(); bad {
		return "", fmt.Errorf("%s: %s", problem.What, problem.Sentence)
	}
	if !report.Complete() || report.To == 0 {
		return "", fmt.Errorf("of %d records not everything could be checked: %v", report.To, report.NotChecked)
	}
	s.outcome.verified = fmt.Sprintf("%d records verified with the key and the checkpoint that were pinned in the beginning", report.To)
	return s.outcome.verified, nil
}

// tamper changes one record of a copy, and expects the verifier to name it.
func tamper(_ context.Context, s *show) (string, error) {
	options, err := pins(s.pinned)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(s.layout.evidence("whole"))
	if err != nil {
		return "", err
	}
	forged, index, err := forge(text)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(s.layout.evidence("tampered"), forged, 0o600); err != nil {
		return "", err
	}
	report, err := ledger.Verify(bytes.NewReader(forged), options)
	if err != nil {
		return "", err
	}
	problem, bad := report.First()
	if !bad || problem.First != index {
		return "", fmt.Errorf("the verifier did not name record %d: %+v", index, report.Problems)
	}
	s.outcome.tampered = fmt.Sprintf("refused, naming record %d: %s", index, problem.Sentence)
	return s.outcome.tampered, nil
}

// forge writes another target's name into one record in the middle, and returns its index.
func forge(text []byte) ([]byte, int64, error) {
	lines := bytes.SplitAfter(text, []byte("\n"))
	index, best, at := int64(-1), -1, int64(-1)
	for i, line := range lines {
		if !bytes.HasPrefix(line, []byte(`{"hashes":`)) {
			continue
		}
		index++
		if i <= len(lines)/2 && bytes.Contains(line, []byte(`"`+payments+`"`)) {
			best, at = i, index
		}
	}
	if best < 0 {
		return nil, 0, errors.New("no record to tamper with")
	}
	lines[best] = bytes.Replace(lines[best], []byte(`"`+payments+`"`), []byte(`"pavments"`), 1)
	return bytes.Join(lines, nil), at, nil
}
