package rotate_test

import (
	"bytes"
	"errors"
	"flag"
	"strings"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/rotate"
)

func TestLogsOneLineForEachTurn(t *testing.T) {
	defer klog.CaptureState().Restore()
	var log bytes.Buffer
	flags := flag.NewFlagSet("klog", flag.PanicOnError)
	klog.InitFlags(flags)
	_ = flags.Set("logtostderr", "false")
	_ = flags.Set("stderrthreshold", "FATAL")
	klog.SetOutput(&log)

	scenario(t, func(t *testing.T, f *fake, r *rotate.Rotator) {
		f.have("a", time.Second)
		f.failWith("a", &publish.StaleError{ID: "a", Err: errors.New("down")})
		stop := start(t, r)
		pass(5 * time.Second)
		f.failWith("a", nil)
		pass(30 * time.Second)
		stop()
	})
	klog.Flush()
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	want := []string{
		`"Volume is stale: it keeps what it holds" volume="a" pod="" class="/" since="2000-01-01T00:00:01Z" reason="Unavailable"`,
		`"Volume is up to date again" volume="a"`,
	}
	if len(lines) != len(want) {
		t.Fatalf("log:\n%s\nwant %d lines", log.String(), len(want))
	}
	for i, line := range lines {
		if !strings.Contains(line, want[i]) {
			t.Errorf("line %d is %s, want %s", i, line, want[i])
		}
	}
}
