package main

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/google/pprof/profile"
)

// A part is for what CPU time is used.
type part struct {
	Name  string
	Share float64 // of 1
}

// The parts of a driver's CPU time.
const (
	partFiles     = "system calls for mounts and files"
	partOwn       = "code of its own"
	partSockets   = "gRPC: system calls for sockets"
	partGRPC      = "gRPC: HTTP/2 and protocol buffers"
	partAPI       = "the API server's client, after the reply"
	partGarbage   = "garbage collection"
	partScheduler = "the scheduler of Go"
)

// owners tells by the beginning of a function's name for what it works; the
// first that fits counts.
var owners = []struct{ prefix, part string }{
	{"github.com/keymount/keymount/pkg/kube.", partAPI},
	{"k8s.io/", partAPI},
	{"sigs.k8s.io/", partAPI},
	{"golang.org/x/net/", partAPI},
	{"net/http.", partAPI},
	{"crypto/tls.", partAPI},
	{"google.golang.org/", partGRPC},
	{"github.com/container-storage-interface/", partGRPC},
	{"github.com/keymount/keymount/pkg/serve.", partGRPC},
	{"github.com/keymount/keymount/", partOwn},
}

// partsOf divides a CPU profile, the largest part first.
func partsOf(p *profile.Profile) []part {
	sums, total := map[string]float64{}, 0.0
	value := len(p.SampleType) - 1 // nanoseconds
	for _, s := range p.Sample {
		sums[partOf(stackOf(s))] += float64(s.Value[value])
		total += float64(s.Value[value])
	}
	var parts []part
	for _, name := range slices.Sorted(maps.Keys(sums)) {
		parts = append(parts, part{name, sums[name] / total})
	}
	slices.SortStableFunc(parts, func(a, b part) int { return cmp.Compare(b.Share, a.Share) })
	return parts
}

// stackOf returns the functions of a sample, the innermost first.
func stackOf(s *profile.Sample) (functions []string) {
	for _, l := range s.Location {
		for _, line := range l.Line {
			functions = append(functions, line.Function.Name)
		}
	}
	return functions
}

// partOf returns for what a stack works: what the innermost function does it
// for that is neither of Go nor of its library.
func partOf(stack []string) string {
	inCall := len(stack) > 0 && strings.Contains(stack[0], "Syscall6")
	for _, function := range stack {
		for _, o := range owners {
			if !strings.HasPrefix(function, o.prefix) {
				continue
			}
			switch {
			case inCall && o.part == partOwn:
				return partFiles
			case inCall && o.part == partGRPC:
				return partSockets
			}
			return o.part
		}
	}
	if slices.ContainsFunc(stack, func(f string) bool { return strings.HasPrefix(f, "runtime.gc") || strings.HasPrefix(f, "runtime.bg") }) {
		return partGarbage
	}
	return partScheduler
}
