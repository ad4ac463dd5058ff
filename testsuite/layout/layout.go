// Package layout keeps the house's import rule: cmd -> workers -> {workflows, activities/*, schedules}
// -> activities (contracts), never upward, never sideways between vendors. It holds a test only.
package layout
