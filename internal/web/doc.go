// Package web is the page for people: what is due, what is under way, who is missing; and, behind the
// same login and on the same origin, Temporal's Web UI and the decode-only codec endpoint.
//
// It shows and changes nothing: it reads the API as an identity that may only read, and people act
// with the command line. It is made for loopback, where castellan-dev serves it in clear; it must not
// be served to a network without TLS.
package web
