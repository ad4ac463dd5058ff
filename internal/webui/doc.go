// Package webui serves Temporal's Web UI as an http.Handler below a path of castellan's own origin,
// for reading only.
//
// It opens no port and knows no users: whoever mounts it has checked the login before. Towards the
// engine it is the identity "ui", which may only read there too, so a mistake here changes nothing.
package webui
