package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/keymount/keymount/test/bench/stat"
)

// podStarts are how long pods of one kind took from their creation until they
// were ready. BenchmarkPods of the end-to-end tests writes them.
type podStarts struct {
	Single stat.Samples // one after another
	Burst  stat.Samples // many at once, all turns
	Last   stat.Samples // until the last of those was ready, for each turn
	Calls  []int        // of the provider, for those
	CPU    stat.Samples // of the driver's processes, for those
}

// Kinds of pods, as the end-to-end tests name them.
const (
	noVolume     = "none"
	emptyDir     = "emptydir"
	driverVolume = "volume"
)

// podKinds are all of them, in the order of the page.
func podKinds() []string { return []string{noVolume, emptyDir, driverVolume} }

// pods are the starts of each kind of pods while a driver is installed, by the
// name of that.
type pods map[string]map[string]podStarts

// mayMeasurePods returns why this user cannot run the end-to-end tests.
func mayMeasurePods() error {
	if os.Geteuid() != 0 {
		return errors.New("-e2e measures pods on a node of our own, which needs root")
	}
	return nil
}

// measurePods measures the start of pods in the cluster of the end-to-end
// tests, which has namespaces of its own.
func measurePods(ctx context.Context, repository string, s settings) (pods, error) {
	say("pods in a cluster, %d turns of each driver", s.PodTurns)
	cache, err := os.UserCacheDir() // the node sees it, as it does not see all folders
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(filepath.Join(cache, "keymount-bench"), "pods")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }() // nobody needs it
	out := filepath.Join(dir, "pods.json")
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench=^BenchmarkPods$", "-benchtime=1x", "-timeout=55m", ".")
	cmd.Dir = filepath.Join(repository, "test", "e2e")
	cmd.Env = append(os.Environ(), "KUBECONFIG=", "E2E_PEERS_OUT="+out, fmt.Sprintf("E2E_PEERS_TURNS=%d", s.PodTurns))
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	// The tests clean up after a signal, which the go command would not pass on.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("go test in %s: %w", cmd.Dir, err)
	}
	return readPods(out)
}

// readPods returns what the end-to-end tests have written, which must have all
// kinds.
func readPods(file string) (pods, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	all := pods{}
	if err := json.Unmarshal(text, &all); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	for _, driver := range []string{ourName, upstreamName} {
		for _, kind := range podKinds() {
			if k := all[driver][kind]; len(k.Single) == 0 || len(k.Burst) == 0 || len(k.Last) == 0 || len(k.Calls) == 0 || len(k.CPU) == 0 {
				return nil, fmt.Errorf("%s: there are no samples of driver %q and pods of the kind %q", file, driver, kind)
			}
		}
	}
	return all, nil
}
