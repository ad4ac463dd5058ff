package record

// The names of facts that the service database understands. Whoever appends an entry uses these names,
// so that inventory and rotation records can be projected from the ledger alone. Any other fact is
// kept as evidence and otherwise ignored.
//
// Times are RFC 3339. In an entry that names a rotation, fingerprint, serial, not_before, not_after and
// key_algorithm describe the rotation's candidate; in an entry without a rotation they describe what is
// on the target now.
const (
	FactFingerprint  = "fingerprint"   // SHA-256 of the leaf, lower-case hex
	FactSerial       = "serial"        // decimal
	FactNotBefore    = "not_before"    //
	FactNotAfter     = "not_after"     //
	FactKeyAlgorithm = "key_algorithm" // ecdsa-p256, ed25519, rsa-2048 ...
	FactKeyID        = "key_id"        // SHA-256 of the public key, hex

	FactPrevious = "previous" // fingerprint of the credential in use when the rotation began
	FactCurrent  = "current"  // fingerprint seen on the target, when the entry is about a rotation
	FactState    = "state"    // where the rotation stands once this entry is true; an activities.State
	FactDueAt    = "due_at"   // when the target becomes due next; the jittered moment
	FactSentence = "sentence" // for people: what came out

	FactTrigger       = "trigger"        // activities.Trigger.Source
	FactTriggerActor  = "trigger_actor"  // activities.Trigger.Actor
	FactTriggerReason = "trigger_reason" // activities.Trigger.Reason

	FactConverged  = "converged"  // JSON array: consumers, all of whose addresses are proven to use the entry's fingerprint
	FactStragglers = "stragglers" // JSON array of activities.Straggler: every address that is not proven
	FactSightings  = "sightings"  // JSON array of activities.Straggler: every address, proven or not

	// FactIssuedNotReceived says that a certificate was issued and its reply lost. The value is the
	// serial where it is known, else "unknown"; a rotation has one row for each value.
	FactIssuedNotReceived = "issued_not_received"
)
