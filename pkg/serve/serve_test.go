package serve_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
	"k8s.io/klog/v2"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// canary stands for what must never reach a log.
const canary = "c4n4ry-5e7f"

// A logBuffer is what klog wrote during a test.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

// lines returns the headers of the messages that contain text; klog indents
// continuation lines.
func (b *logBuffer) lines(text string) []string {
	klog.Flush()
	b.mu.Lock()
	defer b.mu.Unlock()
	var found []string
	for line := range strings.Lines(b.buf.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// captureLog collects klog's output at the verbosity, and fails the test at its
// end if the canary is in it.
func captureLog(t *testing.T, verbosity string) *logBuffer {
	t.Helper()
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	state := klog.CaptureState()
	for name, value := range map[string]string{"v": verbosity, "logtostderr": "false", "alsologtostderr": "false", "stderrthreshold": "FATAL", "one_output": "true"} {
		if err := flags.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	log := &logBuffer{}
	klog.SetOutput(log)
	t.Cleanup(func() {
		for _, line := range log.lines(canary) {
			t.Errorf("the log shows the canary: %s", line)
		}
		state.Restore()
	})
	return log
}

// shortDir returns a directory whose path leaves room for a socket's name.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// socketIn returns an endpoint in a directory of its own.
func socketIn(t *testing.T) (endpoint, path string) {
	t.Helper()
	path = filepath.Join(shortDir(t), "s.sock")
	return "unix://" + path, path
}
