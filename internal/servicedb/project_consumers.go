package servicedb

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"castellan.dev/activities"
	"castellan.dev/activities/record"
)

// sightings is a decoded list of what addresses were seen to use.
type sightings struct {
	valid bool
	list  []activities.Straggler
}

func decodeSightings(fact string) sightings {
	if fact == "" {
		return sightings{}
	}
	var list []activities.Straggler
	if json.Unmarshal([]byte(fact), &list) != nil {
		return sightings{}
	}
	for i, s := range list { // an escaped NUL survives decoding
		list[i].Consumer, list[i].Address, list[i].Serves, list[i].Detail = text(s.Consumer), text(s.Address), text(s.Serves), text(s.Detail)
		list[i].Standing = activities.Standing(text(string(s.Standing)))
	}
	return sightings{valid: true, list: list}
}

// encode returns the list as it is stored: empty for an empty list.
func (s sightings) encode() string {
	if len(s.list) == 0 {
		return ""
	}
	encoded, err := json.Marshal(s.list)
	if err != nil { // times outside of years 0 to 9999
		return ""
	}
	return string(encoded)
}

func decodeNames(fact string) []string {
	var names []string
	if fact == "" || json.Unmarshal([]byte(fact), &names) != nil {
		return nil
	}
	for i := range names {
		names[i] = text(names[i])
	}
	return names
}

// projectConsumers keeps what each consumer was last seen to use.
func projectConsumers(ctx context.Context, tx *Tx, r reading, rotation *rotationRow) error {
	for _, name := range r.converged {
		if err := consumerProven(ctx, tx, r, name, rotation); err != nil {
			return err
		}
	}
	for _, list := range [][]activities.Straggler{r.stragglers.list, r.sightings.list} {
		for _, s := range list {
			if err := sighted(ctx, tx, r, s); err != nil {
				return err
			}
		}
	}
	if !r.sightings.valid {
		return nil
	}
	// The list was complete: what it does not mention is not an address of these consumers any more.
	seen := map[string]bool{}
	for _, s := range r.sightings.list {
		if seen[s.Consumer] {
			continue
		}
		seen[s.Consumer] = true
		if _, err := tx.Exec(ctx, `DELETE FROM consumers WHERE target = ? AND consumer = ? AND seen_at < ?`, r.Target, s.Consumer, r.at); err != nil {
			return err
		}
	}
	return nil
}

// consumerProven marks every address of a consumer as proven, and the consumer as a whole: the row without an
// address. That row also stands for addresses that a late entry tells of afterwards.
func consumerProven(ctx context.Context, tx *Tx, r reading, name string, rotation *rotationRow) error {
	serves := r.Facts[record.FactFingerprint]
	if serves == "" && rotation != nil {
		serves = rotation.candidate
	}
	whole := activities.Straggler{Consumer: name, Standing: activities.UsesCandidate, Serves: serves}
	if err := upsertConsumer(ctx, tx, r.Target, whole, r.at, r.at); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE consumers SET since = CASE WHEN standing = ? AND serves = ? THEN since ELSE ? END,
			standing = ?, serves = ?, detail = '', seen_at = ? WHERE target = ? AND consumer = ? AND address <> '' AND seen_at <= ?`,
		string(whole.Standing), serves, r.at, string(whole.Standing), serves, r.at, r.Target, name, r.at)
	return err
}

// sighted keeps what one address was seen to use, unless the consumer as a whole was proven later.
func sighted(ctx context.Context, tx *Tx, r reading, s activities.Straggler) error {
	since, seen := micros(s.Since), r.at
	if since == 0 || since > seen {
		since = seen
	}
	var proven int64
	var serves string
	err := tx.QueryRow(ctx, `SELECT seen_at, serves FROM consumers WHERE target = ? AND consumer = ? AND address = '' AND standing = ? AND seen_at > ?`,
		r.Target, s.Consumer, string(activities.UsesCandidate), seen).Scan(&proven, &serves)
	switch {
	case err == nil:
		s.Standing, s.Serves, s.Detail, since, seen = activities.UsesCandidate, serves, "", proven, proven
	case !errors.Is(err, sql.ErrNoRows):
		return err
	}
	return upsertConsumer(ctx, tx, r.Target, s, since, seen)
}

// upsertConsumer writes what was seen. An older sighting does not replace a newer one.
func upsertConsumer(ctx context.Context, tx *Tx, target string, s activities.Straggler, since, seen int64) error {
	_, err := tx.Exec(ctx, `INSERT INTO consumers (target, consumer, address, standing, serves, detail, since, seen_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (target, consumer, address) DO UPDATE SET
			since = CASE WHEN consumers.standing = excluded.standing AND consumers.serves = excluded.serves AND consumers.since < excluded.since
				THEN consumers.since ELSE excluded.since END,
			standing = excluded.standing, serves = excluded.serves, detail = excluded.detail, seen_at = excluded.seen_at
		WHERE excluded.seen_at >= consumers.seen_at`,
		target, s.Consumer, s.Address, string(s.Standing), s.Serves, s.Detail, since, seen)
	return err
}
