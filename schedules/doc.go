// Package schedules keeps the engine's schedules as castellan declares them.
//
// [Declared] lists what should exist: the schedules that castellan needs itself, with what the
// configuration overrides or adds. [Reconciler.Plan] compares that with what the engine has and returns
// a [Plan], which prints itself for a dry run and which [Reconciler.Apply] carries out. The comparison
// is pure; only schedules that carry castellan's mark are ever changed.
//
// [Watchdog] runs in `castellan serve`, not as a schedule: it notices when a schedule has not succeeded
// in time or was paused, edited or deleted by hand.
package schedules
