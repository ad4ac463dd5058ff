package policy

// The machine reasons of verdicts. They are stored, counted and matched on: never change one.
const (
	ReasonNotDue       = "not_due"                    // nothing is to be done yet
	ReasonPaused       = "paused"                     // an operator paused the target
	ReasonInHand       = "in_hand"                    // a rotation was begun and has to go on
	ReasonCompromise   = "compromise"                 // the current credential must no longer be trusted
	ReasonMissing      = "missing"                    // there is no credential
	ReasonExpired      = "expired"                    // the current credential has ended
	ReasonOperator     = "operator_asked"             // an operator asked for it now
	ReasonNames        = "names_changed"              // the configuration names other subjects
	ReasonUsage        = "usage_changed"              // the configuration wants another usage
	ReasonKeyAlgorithm = "key_algorithm_changed"      // the configuration wants another kind of key
	ReasonIssuer       = "issuer_changed"             // the configuration names another issuer
	ReasonDue          = "due"                        // its time has come
	ReasonExpiresFirst = "expires_before_next_window" // due, and no window comes in time: it does not wait
	ReasonHeld         = "held"                       // due, but held back after a failure
	ReasonExclusion    = "exclusion_group_busy"       // due, but another member of the group is at work
	ReasonBlackout     = "blackout"                   // due, but inside a blackout
	ReasonWindow       = "outside_window"             // due, but outside every maintenance window
)

// Reasons lists every reason that a verdict can have.
func Reasons() []string {
	return []string{
		ReasonNotDue, ReasonPaused, ReasonInHand, ReasonCompromise, ReasonMissing, ReasonExpired, ReasonOperator,
		ReasonNames, ReasonUsage, ReasonKeyAlgorithm, ReasonIssuer, ReasonDue, ReasonExpiresFirst,
		ReasonHeld, ReasonExclusion, ReasonBlackout, ReasonWindow,
	}
}
