// Package policy decides, purely, whether a target is due for rotation and when it may happen.
//
// [Decide] walks a chain of small rules over an [Input] and returns a verdict with a reason from a
// fixed set and a sentence for people; [NextDue] gives the moment that the inventory is indexed by.
// Gathering the input and acting on the verdict are other packages' work: nothing here reads a clock,
// draws a random number, or touches a network, a file or a store, so the same input always gives the
// same verdict, in a workflow's replay as well as in an auditor's hands.
package policy
