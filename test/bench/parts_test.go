package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/pprof/profile"
)

func TestASampleCountsForWhatItWorksFor(t *testing.T) {
	const driver = "github.com/keymount/keymount/pkg/"
	for _, c := range []struct {
		name  string
		stack []string // the innermost function first
		want  string
	}{
		{"a mount", []string{"internal/runtime/syscall/linux.Syscall6", "golang.org/x/sys/unix.Fsmount", driver + "tmpfs.(*Mounter).mountDetached", "google.golang.org/grpc.(*Server).handleStream"}, partFiles},
		{"memory that a publish takes", []string{"runtime.mallocgc", driver + "publish.(*Service).create", "google.golang.org/grpc.(*Server).handleStream"}, partOwn},
		{"a reply that is written", []string{"internal/runtime/syscall/linux.Syscall6", "syscall.write", "net.(*conn).Write", "google.golang.org/grpc/internal/transport.(*bufWriter).Flush"}, partSockets},
		{"a request that is decoded", []string{"google.golang.org/protobuf/proto.Unmarshal", driver + "serve.codec.Unmarshal", "google.golang.org/grpc.(*Server).handleStream"}, partGRPC},
		{"a status object", []string{"encoding/json.Marshal", driver + "kube.(*Statuses).apply"}, partAPI},
		{"its connection", []string{"internal/runtime/syscall/linux.Syscall6", "crypto/tls.(*Conn).Write", "golang.org/x/net/http2.(*Framer).WriteData"}, partAPI},
		{"a collection", []string{"runtime.scanobject", "runtime.gcDrain", "runtime.gcBgMarkWorker"}, partGarbage},
		{"a processor without work", []string{"runtime.futex", "runtime.findRunnable", "runtime.schedule", "runtime.mcall"}, partScheduler},
	} {
		if got := partOf(c.stack); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func TestPartsAreSharesOfAProfile(t *testing.T) {
	sample := func(nanoseconds int64, functions ...string) *profile.Sample {
		s := &profile.Sample{Value: []int64{1, nanoseconds}}
		for _, f := range functions {
			s.Location = append(s.Location, &profile.Location{Line: []profile.Line{{Function: &profile.Function{Name: f}}}})
		}
		return s
	}
	got := partsOf(&profile.Profile{SampleType: []*profile.ValueType{{Type: "samples"}, {Type: "cpu"}}, Sample: []*profile.Sample{
		sample(10, "runtime.mcall"), sample(60, "google.golang.org/grpc.x"), sample(30, "k8s.io/y", "google.golang.org/grpc.x"),
	}})
	if diff := cmp.Diff([]part{{partGRPC, .6}, {partAPI, .3}, {partScheduler, .1}}, got); diff != "" {
		t.Errorf("parts (-want +got):\n%s", diff)
	}
}
