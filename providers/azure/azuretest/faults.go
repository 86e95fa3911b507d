package azuretest

import (
	"cmp"
	"net/http"
	"slices"
	"sync"
	"testing"
)

// Faults are what is wrong on purpose with a vault, Entra ID or IMDS.
type Faults struct {
	t          testing.TB
	operations []string // that there are

	mu      sync.Mutex
	broken  bool
	fails   map[string]Fault // by operation
	waiting chan struct{}    // closed once a call waits; nil unless calls hang
	waits   bool             // waiting is closed
	release chan struct{}    // closed when the hanging ends
}

// A Fault is an answer instead of the real one.
type Fault struct {
	Status     int // of HTTP. Default: 400
	Code       string
	Message    string
	Inner      string // the code of the innererror of a vault
	RetryAfter string // the header
	Times      int    // how often. Default: until it is replaced
}

func newFaults(t testing.TB, operations []string) *Faults {
	return &Faults{t: t, operations: operations, fails: map[string]Fault{}}
}

// Break answers every call with status 503, until Repair.
func (f *Faults) Break() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = true
}

// Repair ends what Break, Hang and Fail began.
func (f *Faults) Repair() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = false
	clear(f.fails)
	if f.release != nil {
		close(f.release)
		f.release = nil
	}
}

// Hang takes calls and does not answer them, until Repair or the end of the
// test. The channel is closed once a call waits.
func (f *Faults) Hang() (waiting <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.release == nil {
		f.waiting, f.release, f.waits = make(chan struct{}), make(chan struct{}), false
	}
	return f.waiting
}

// Fail answers an operation, like secrets/get, with the fault: that of a vault
// once the caller's token is accepted. The zero Fault ends that.
func (f *Faults) Fail(operation string, fault Fault) {
	f.t.Helper()
	if !slices.Contains(f.operations, operation) {
		f.t.Errorf("azuretest: there is no operation %q here: there are %q", operation, f.operations)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.fails, operation)
	if fault != (Fault{}) {
		f.fails[operation] = fault
	}
}

// wait blocks while calls hang. It reports whether the caller is still there.
func (f *Faults) wait(r *http.Request) bool {
	f.mu.Lock()
	release := f.release
	if release != nil && !f.waits {
		f.waits = true
		close(f.waiting)
	}
	f.mu.Unlock()
	if release == nil {
		return true
	}
	select {
	case <-release:
		return true
	case <-r.Context().Done():
		return false
	}
}

// outage returns an error while everything is broken.
func (f *Faults) outage() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.broken {
		return nil
	}
	return &refusal{status: http.StatusServiceUnavailable, code: "ServiceUnavailable", message: "The service is temporarily unavailable."}
}

// fail returns the fault of the operation as an error, and counts it.
func (f *Faults) fail(operation string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	fault, ok := f.fails[operation]
	if !ok {
		return nil
	}
	switch fault.Times {
	case 0:
	case 1:
		delete(f.fails, operation)
	default:
		fault.Times--
		f.fails[operation] = fault
	}
	return &refusal{cmp.Or(fault.Status, http.StatusBadRequest), fault.Code, fault.Message, fault.Inner, fault.RetryAfter}
}
