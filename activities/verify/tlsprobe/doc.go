// Package tlsprobe sees what a consumer uses by shaking hands with it, as its clients do: at every
// address, with a fresh connection, without resumption, twice in a row. A consumer uses the candidate
// when the leaf that it presents is the candidate's, the chain builds to the bundle that clients hold
// today under the name they ask for, and the connection carries a byte afterwards. The byte matters:
// under TLS 1.3 a client's handshake succeeds before the server has judged the client's certificate.
//
// There are two modes. In the mode `server` the consumer is a TLS server and is probed directly. In the
// mode `client` the consumer is a client: the certificate that it uses is presented, from the files that
// it reads, to the servers that demand it (`presents`), and the consumer's own word is asked at its URLs
// (`reports`); files show what it would use when it reads them, reports what it uses.
//
// A [Peer] proves the opposite, that a revoked certificate is refused while a sibling is accepted.
//
// The probe reads and connects; it changes nothing. Its log lines at the consumer look like those of a
// client that leaves early.
package tlsprobe
