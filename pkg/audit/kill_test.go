package audit

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// childVariable makes the test program a writer of the log that it names.
const childVariable = "AUDIT_TEST_LOG"

func TestMain(m *testing.M) {
	if path := os.Getenv(childVariable); path != "" {
		child(path)
	}
	os.Exit(m.Run())
}

// child writes events until it is killed, and says of each when it is written.
func child(path string) {
	sink, err := openFile(path, 4000)
	if err != nil {
		panic(err)
	}
	l, err := New(sink, Options{Node: "n1", Key: key(1), Required: true})
	if err != nil {
		panic(err)
	}
	for i := range 1 << 20 {
		volume := fmt.Sprint(os.Getpid(), "-", i)
		if err := l.append(context.Background(), &Event{Event: Fetch, Decision: Allow, Volume: volume}); err != nil {
			panic(err)
		}
		fmt.Println(volume)
	}
}

// Whenever a driver is killed, what it was told is written is in the log once,
// and the log is whole.
func TestADriverThatIsKilledLeavesAWholeLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	told := make(map[string]bool)
	for kills := 0; kills < 10 || len(told) < 100; kills++ { // fewer events say nothing
		if kills == 200 {
			t.Fatalf("%d programs have told of %d events", kills, len(told))
		}
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), childVariable+"="+path)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Duration(20+rand.IntN(200))*time.Millisecond, func() { _ = cmd.Process.Kill() })
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if number := strings.SplitN(lines.Text(), "-", 2); len(number) == 2 {
				if _, err := strconv.Atoi(number[1]); err == nil {
					told[lines.Text()] = true
				}
			}
		}
		_ = cmd.Wait()
	}
	written := make(map[string]int)
	_, err := Verify(all(t, path), func(e Event) error { written[e.Volume]++; return nil })
	if err != nil {
		t.Fatal(err)
	}
	for volume := range told {
		if written[volume] == 0 && !cutShort(volume, written) {
			t.Errorf("event %s was written, and is not in the log", volume)
		}
	}
	for volume, n := range written {
		if volume != "" && n != 1 {
			t.Errorf("event %s is in the log %d times", volume, n)
		}
	}
}

// cutShort reports whether what a program said when it was killed is the
// beginning of what it would have said.
func cutShort(volume string, written map[string]int) bool {
	for other := range written {
		if strings.HasPrefix(other, volume) {
			return true
		}
	}
	return false
}

func BenchmarkAppend(b *testing.B) {
	sink, err := openFile(filepath.Join(b.TempDir(), "audit.jsonl"), maxFile)
	if err != nil {
		b.Fatal(err)
	}
	l, err := New(sink, Options{Node: "n1", Key: key(1), Required: true})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = l.Close() })
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			e := &Event{Event: Fetch, Pod: &pod, Class: "shop/db", Provider: "vault"}
			e.bundle(bundle(), key(1))
			if err := l.gate(b.Context(), e); err != nil {
				b.Error(err)
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}
