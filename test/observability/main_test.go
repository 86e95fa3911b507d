package main

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/tmpfs/userns"
	"github.com/keymount/keymount/test/observability/traffic"
)

const repository = "../.."

func TestMain(m *testing.M) {
	silence()
	os.Exit(userns.Main(m))
}

// recorded is what real drivers exposed during a short scenario.
var recorded = sync.OnceValues(func() (*recording, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	return record(ctx, traffic.Config{Repository: repository, Nodes: []string{"node-1", "node-2"}, Build: []string{"-race"}}, 20*time.Second, 250*time.Millisecond)
})

func recordingOf(t *testing.T) *recording {
	t.Helper()
	r, err := recorded()
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func dashboardOf(t *testing.T) *dashboard {
	t.Helper()
	d, err := readDashboard(filepath.Join(repository, dashboardFile))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(repository, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
