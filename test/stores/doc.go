// Package stores drives the providers against real secret stores: a server of
// its own for each test, real tokens, and a real database behind it.
package stores
