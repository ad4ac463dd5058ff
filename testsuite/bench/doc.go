// Package bench measures what castellan costs, against baselines of the same run on the same machine,
// and prints one table: `make bench`. Baseline and subject take turns in small batches, so that what
// else the machine does hits both. It asserts nothing about time: a figure that is worse than its aim
// is printed as such. What must hold is counted instead, in testsuite/rotation.
package bench
