// Package rescue ends a half rotation when the engine is gone: forward to the same candidate, or back
// to the previous credential, with the saga's own steps under the same fences.
//
// It is for the day on which neither Temporal nor `castellan serve` runs. It then is the one writer of
// the evidence ledger, and refuses to start where the API still answers. It never begins a rotation,
// never mints a second candidate for one, and never retires without proof that the consumers converged;
// each run may be repeated.
package rescue
