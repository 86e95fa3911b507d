package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/keymount/keymount/test/bench/stat"
)

// A trio is how long one thing took: in our driver, in the upstream one, and
// at the least.
type trio struct{ Ours, Upstream, Floor stat.Samples }

// of returns the samples of a driver.
func (t *trio) of(p *peer) *stat.Samples {
	if p.name == upstreamName {
		return &t.Upstream
	}
	return &t.Ours
}

// A cell is one operation under one load.
type cell struct {
	Operation string
	Files     int
	Latency   time.Duration
	Callers   int
	Took      trio
}

// results are all that was measured.
type results struct {
	Machine  machine
	Built    built
	Settings settings
	Took     time.Duration // without what was built

	Cells     []cell
	Repeated  [2]int64 // unpublish calls that failed at first; ours, upstream's
	Bursts    []burst
	Steady    []steady // ours first
	Starts    starts
	Providers memory   // of our providers' container, idle
	Growth    []growth // ours first
	Pods      pods     // nil if they were not measured
	Costs     []cost
}

// built is what was compared.
type built struct {
	Ours, Upstream, Kubernetes, Go string
	Programs                       []binary
}

// A binary is a program.
type binary struct {
	Name         string
	Size, Packed int64 // packed as in a layer of an image
}

// settings say how much is measured.
type settings struct {
	Quick         bool
	Rounds        int           // of one caller
	SlowRounds    int           // of one caller, with a slow store
	Batches       int           // of all callers at once
	Turns         int           // of all secrets, for rotation
	Bursts        int           // of each kind
	Starts        int           // of each driver
	Steady        time.Duration // that is watched
	Compressed    int           // how much faster time passes there
	SteadyVolumes int
	Volumes       []int // at which growth is looked at
	Classes       []int
	PodTurns      int // of each driver in the cluster
	Profiled      time.Duration
}

func full() settings {
	return settings{
		Rounds: 200, SlowRounds: 60, Batches: 20, Turns: 12, Bursts: 5, Starts: 10,
		Steady: 2 * time.Minute, Compressed: 6, SteadyVolumes: 100,
		Volumes: []int{lookback, 110, 250, 500, 1000, 1500, 2000}, Classes: []int{10, 1000, 2500, 5000}, PodTurns: 3, Profiled: 20 * time.Second,
	}
}

// quick is enough to see an order of magnitude.
func quick() settings {
	return settings{
		Quick: true, Rounds: 20, SlowRounds: 8, Batches: 2, Turns: 1, Bursts: 1, Starts: 3,
		Steady: 24 * time.Second, Compressed: 10, SteadyVolumes: 60,
		Volumes: []int{lookback, 110, 300}, Classes: []int{10, 5000}, PodTurns: 1, Profiled: 5 * time.Second,
	}
}

// save writes the results into a file, unless it has no name.
func (r *results) save(file string) error {
	if file == "" {
		return nil
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// read returns results that were saved.
func read(file string) (*results, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	r := new(results)
	if err := json.Unmarshal(text, r); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return r, nil
}
