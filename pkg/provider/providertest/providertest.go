// Package providertest checks an implementation of package provider against
// its contract, and ships Fake, an in-memory backend for the tests of others.
//
// A provider's test needs one function that makes a Backend:
//
//	func TestConformance(t *testing.T) {
//		providertest.Run(t, func(t testing.TB) providertest.Backend { return newBackend(t) })
//	}
//
// Run executes every case that the backend can express twice: with the
// provider in this process, and with the same provider behind a v1alpha1
// socket.
package providertest

import (
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// A Backend is a store of secrets under the control of the suite, with the
// provider that reads it. Its methods fail t rather than return errors, and
// whatever it starts ends in a t.Cleanup.
type Backend interface {
	// Provider returns the provider under test: the same one at every call.
	Provider() provider.Provider
	// Put stores value under name, as a new value if there is one already. A
	// Fetch that begins after Put has returned finds it. The suite's names are
	// lower-case letters, digits and dashes.
	Put(t testing.TB, name string, value []byte)
	// Delete removes the object of that name.
	Delete(t testing.TB, name string)
	// Request returns a new request for the objects, made by an identity that
	// may read them all, with the tokens and facts that the provider needs. It
	// must not judge the objects: a path that leaves the volume is the
	// provider's to refuse.
	Request(t testing.TB, objects ...Object) *provider.Request
}

// An Object is one object of a backend as a volume asks for it.
type Object struct {
	Name     string      // the name that it was Put under
	File     string      // path in the volume; empty means Name
	Mode     fs.FileMode // zero means the mode of the request
	Optional bool        // missing is no error, and yields no file
}

// path returns where the object's file is expected.
func (o Object) path() string {
	if o.File == "" {
		return o.Name
	}
	return o.File
}

// A Denier is a Backend that can refuse. Optional.
type Denier interface {
	// Deny makes the backend refuse the object to the identity that Request uses.
	Deny(t testing.TB, name string)
}

// An Expirer is a Backend whose objects can expire, and whose provider serves
// them nevertheless. Optional.
type Expirer interface {
	// Expire ends the time of the object that was Put under name, though not of
	// what is Put there later.
	Expire(t testing.TB, name string)
}

// A Breaker is a Backend that can be out of order. Optional.
type Breaker interface {
	// Break makes every call to the backend fail, until Repair.
	Break(t testing.TB)
	// Repair ends the outage.
	Repair(t testing.TB)
}

// A Hanger is a Backend that can keep its callers waiting. Optional.
type Hanger interface {
	// Hang makes the backend take calls and not answer them, until t ends. The
	// channel receives, or is closed, once a call waits.
	Hang(t testing.TB) (waiting <-chan struct{})
}

// A Leaser is a Backend that issues dynamic credentials. Its provider, or one
// that the provider wraps, is a provider.Releaser. Optional.
type Leaser interface {
	// LeaseRequest returns a new request for dynamic credentials.
	LeaseRequest(t testing.TB) *provider.Request
	// Leases returns how many leases are alive in the backend.
	Leases(t testing.TB) int
}

// Limited is a Backend that cannot express all that the suite asks. Optional.
type Limited interface {
	Limits() Limits
}

// Limits says what a backend cannot express, each with the reason, which is
// printed beside the cases that were run.
type Limits struct {
	Value    func(value []byte) string // why this value cannot be stored; empty if it can
	Optional string                    // why Object.Optional has no equivalent; empty if it has
	Mode     string                    // why Object.Mode has no equivalent; empty if it has
}

// patience is long because it only ever ends when something is broken.
const patience = 20 * time.Second

// Run checks the backend's provider against every case that it can express,
// directly and through a socket, and prints which cases were run and why
// others do not apply. Each case has a new backend. The calling test must not
// be parallel, because goroutines and logs of the whole process are looked at.
func Run(t *testing.T, newBackend func(testing.TB) Backend) {
	t.Helper()
	applicable, reasons := choose(newBackend(t))
	t.Logf("cases: %s", strings.Join(names(applicable), ", "))
	for _, reason := range reasons {
		t.Logf("not applicable: %s", reason)
	}
	for _, leg := range legs() {
		t.Run(leg.name, func(t *testing.T) {
			for _, c := range applicable {
				t.Run(c.name, func(t *testing.T) { c.check(t, harness{newBackend, leg.connect, patience}) })
			}
		})
	}
}

// choose splits the cases into those that the backend can express and, for
// the others, why it cannot.
func choose(b Backend) (applicable []testCase, reasons []string) {
	for _, c := range slices.Concat(contentCases(), warningCases(), failureCases(), versionCases(), leaseCases(), behaviourCases()) {
		if why := c.unfit(b); why != "" {
			reasons = append(reasons, c.name+": "+why)
			continue
		}
		applicable = append(applicable, c)
	}
	return applicable, reasons
}

func names(cases []testCase) []string {
	list := make([]string, 0, len(cases))
	for _, c := range cases {
		list = append(list, c.name)
	}
	return list
}

// limits returns what b says that it cannot express.
func limits(b Backend) Limits {
	if limited, ok := b.(Limited); ok {
		return limited.Limits()
	}
	return Limits{}
}

// storable returns why b cannot hold value; empty if it can.
func (l Limits) storable(value []byte) string {
	if l.Value == nil {
		return ""
	}
	return l.Value(value)
}
