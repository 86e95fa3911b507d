// Package soak lets a driver and a provider, as real processes, hold leases of
// a real server for a while: volumes come and go, both processes are killed
// over and over, and somebody uses the credentials all the time.
package soak

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/tmpfs/userns"
)

func TestMain(m *testing.M) { os.Exit(userns.Main(reporter{m})) }

// A reporter prints what was measured after the tests, because what a test
// prints is shown only if it fails.
type reporter struct{ tests interface{ Run() int } }

// Run implements the interface of *testing.M.
func (r reporter) Run() int {
	code := r.tests.Run()
	for _, line := range measures {
		fmt.Println("stores-measure: " + line)
	}
	return code
}

var measures []string

func measure(name string, value int64, unit string) {
	measures = append(measures, fmt.Sprintf("%s=%d %s", name, value, unit))
}

const (
	lease    = 20 * time.Second // of credentials, and of the tokens of half of the volumes
	longest  = time.Minute      // that the credentials of those live
	volumes  = 12
	patience = 60 * time.Second // with what happens by itself, one lease time included
)

// duration is how long volumes come and go: an hour with SOAK=1.
func duration() time.Duration {
	if os.Getenv("SOAK") == "1" {
		return time.Hour
	}
	return 3 * time.Minute
}

// In the end the server has one lease for each volume, and none when they have
// gone; and no login has ever failed.
func TestLeasesAreThoseOfTheVolumes(t *testing.T) {
	n := newNode(t)
	n.startProvider()
	n.startDriver()
	checker := n.check()
	n.churn(time.Now().Add(duration()))

	n.hold()
	n.holdsAll("after everything has settled")
	n.release()
	n.holdsAll("after the volumes have gone")
	checker()
	n.stop()
	n.keptSecrets()
	n.report()
}
