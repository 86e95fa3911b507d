// Package serve is what every main of Keymount does around its services: it
// listens on a socket, guards and logs each call, stops in bounded time, and
// answers health probes. It knows nothing of volumes or secrets, and never logs
// a request, a response or the value of a panic.
package serve
