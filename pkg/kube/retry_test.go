package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/publish"
)

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

// lines returns the lines that contain text.
func (b *logBuffer) lines(text string) (found []string) {
	klog.Flush()
	b.mu.Lock()
	defer b.mu.Unlock()
	for line := range strings.Lines(b.buf.String()) {
		if strings.Contains(line, text) {
			found = append(found, line)
		}
	}
	return found
}

// captureLog collects what klog writes until the test ends.
func captureLog(t *testing.T) *logBuffer {
	t.Helper()
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	state := klog.CaptureState()
	for name, value := range map[string]string{"logtostderr": "false", "alsologtostderr": "false", "stderrthreshold": "FATAL", "one_output": "true"} {
		if err := flags.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	log := &logBuffer{}
	klog.SetOutput(log)
	t.Cleanup(state.Restore)
	return log
}

func TestAnOutageIsLoggedOnceAndMadeUpFor(t *testing.T) {
	log := captureLog(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		queue := newQueue[int]()
		var away atomic.Bool
		done := make(map[int]int)
		var worker sync.WaitGroup
		worker.Go(func() {
			work(ctx, queue, "Write", func(_ context.Context, item int) error {
				if away.Load() {
					return errors.New("the API server is away")
				}
				done[item]++
				return nil
			})
		})
		for outage := range 2 {
			away.Store(true)
			for item := range 20 {
				queue.Add(item)
			}
			time.Sleep(10 * time.Minute)
			away.Store(false)
			time.Sleep(maxRetry)
			synctest.Wait()
			for item := range 20 {
				if done[item] != outage+1 {
					t.Errorf("item %d was done %d times after outage %d", item, done[item], outage+1)
				}
			}
		}
		stop()
		queue.ShutDown()
		worker.Wait()
	})
	if got := log.lines("failed"); len(got) != 2 {
		t.Errorf("two outages were logged as %q", got)
	}
}

func TestWhatAllElseWaitsForIsTriedOften(t *testing.T) {
	log := captureLog(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithTimeout(t.Context(), time.Hour)
		defer stop()
		last, longest := time.Now(), time.Duration(0)
		if retry(ctx, "It cannot be done", func() error {
			longest = max(longest, time.Since(last))
			last = time.Now()
			return errors.New("no")
		}) {
			t.Error("retry says that it was done")
		}
		if longest > 35*time.Second {
			t.Errorf("the longest wait was %v", longest)
		}
	})
	if got := log.lines("It cannot be done"); len(got) != 1 {
		t.Errorf("logged %q, want one line", got)
	}
}

func TestStatusesThatMayNotBeWrittenAreLoggedOnceWithWhatToDo(t *testing.T) {
	log := captureLog(t)
	s := newStage(t)
	s.mu.Lock()
	s.refuse = func(verb, _ string) int {
		if verb == http.MethodPatch {
			return http.StatusForbidden
		}
		return 0
	}
	s.mu.Unlock()
	st := s.statuses("n")
	for i := range 20 {
		st.Ended(s.publish(aVolume(fmt.Sprint(i)), publish.Created))
	}
	s.eventually("all were tried", func() bool { return len(s.requests("PATCH")) >= 20 })
	got := log.lines("Write status of volume failed")
	if len(got) == 0 || len(got) > writers || !strings.Contains(got[0], "check the ClusterRole of the driver's service account") {
		t.Errorf("log: %q, want one line of each of %d writers at most, that says what to do", got, writers)
	}
}

func TestAClusterWithoutTheDefinitionsIsLoggedOnceWithWhatToDo(t *testing.T) {
	log := captureLog(t)
	s := newStage(t)
	asked := make(chan struct{}, 10)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NotFound(w, r) // as an API server answers for a group that it does not have
		asked <- struct{}{}
	}))
	t.Cleanup(server.Close)
	var err error
	if s.client, err = newClient(&rest.Config{Host: server.URL, QPS: -1}); err != nil {
		t.Fatal(err)
	}
	st := NewStatuses(s.client, &s.volumes, "n")
	s.run(func(done <-chan struct{}) error { return st.Run(until(done), nil) })
	<-asked
	<-asked
	if got := log.lines("cannot be listed"); len(got) != 1 || !strings.Contains(got[0], "install the CRDs") {
		t.Errorf("log: %q, want one line that says what to do", got)
	}
}

func TestANamespaceThatIsGoingIsLeftAlone(t *testing.T) {
	log := captureLog(t)
	s := newStage(t)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			s.ServeHTTP(w, r)
			return
		}
		s.mu.Lock()
		s.calls = append(s.calls, r.Method+" "+r.URL.Path)
		s.mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusForbidden)
		_ = json.NewEncoder(w).Encode(object{
			"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": http.StatusForbidden,
			"details": object{"causes": []object{{"reason": corev1.NamespaceTerminatingCause}}},
		})
	}))
	t.Cleanup(server.Close)
	var err error
	if s.client, err = newClient(&rest.Config{Host: server.URL, QPS: -1}); err != nil {
		t.Fatal(err)
	}
	s.statuses("n").Ended(s.publish(aVolume("1"), publish.Created))
	e := s.events()
	e.Event(aPod, "Warning", reasonPublishFailed, "why")
	e.Event(aPod, "Warning", reasonStale, "why")
	s.eventually("both kinds were tried", func() bool { return len(s.requests("PATCH")) > 0 && len(s.requests("POST")) > 1 })
	if got := log.lines(""); len(got) != 0 {
		t.Errorf("log: %q, want nothing: all of it is going", got)
	}
}
