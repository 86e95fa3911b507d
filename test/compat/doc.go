// Package compat holds the wire messages that drop-in compatibility must
// keep, as golden files. Its tests speak the protocols byte by byte, with a
// description of the messages of their own, so that a change of the generated
// code cannot hide behind itself.
package compat
