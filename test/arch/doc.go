// Package arch checks, as tests, what the code of this repository promises
// about itself: which package may import which, where plaintext is handled,
// what a binary links, and the manners that every package keeps. Each rule is
// a function from the parsed source tree to its violations, and is itself
// tested on a tree that breaks it.
package arch
