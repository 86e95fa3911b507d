package kube

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// The reasons of the events that pods get.
const (
	reasonPublishFailed = "PublishFailed"          // Warning
	reasonRotated       = "MountRotationComplete"  // Normal
	reasonStale         = "MountRotationFailed"    // Warning
	reasonRecovered     = "MountRotationRecovered" // Normal
	reasonSecretFailed  = "FailedToCreateSecret"   // Warning
	component           = "keymount-driver"
	eventBacklog        = 256             // events that may wait to be sent
	eventGap            = 5 * time.Minute // between two equal events of a volume
	maxMessage          = 1024            // what the API takes for an event
	maxChanges          = 10              // objects that a message names
	maxTold             = 1000            // volumes, from which on failures of long ago are forgotten
)

// Events tells pods what becomes of their volumes: that publishing failed, and
// why; that content was rotated; that a volume is stale, and that it no longer
// is. Equal events of a volume come at most every five minutes.
type Events struct {
	client  *Client
	node    string
	backlog chan event

	mu   sync.Mutex
	told map[volume.ID]told
}

// An event waits to be sent.
type event struct {
	pod                   provider.Pod
	kind, reason, message string
}

// told is what a pod was told of a volume. It is replaced, not modified.
type told struct {
	failure  string // of the last publish; "" once it succeeded
	stale    string // reason; "" while it is fresh
	at       time.Time
	versions provider.Versions // held when it was told last
}

// NewEvents returns the events of a node, some of whose volumes an earlier
// driver has published. It makes no call.
func NewEvents(client *Client, node string, published []volume.Record) *Events {
	e := &Events{client: client, node: node, backlog: make(chan event, eventBacklog), told: make(map[volume.ID]told)}
	for _, rec := range published {
		e.told[rec.ID] = told{stale: rec.Stale.Reason, at: time.Now(), versions: rec.Held.Versions}
	}
	return e
}

// Ended implements Listener.
func (e *Events) Ended(t Turn) {
	e.mu.Lock()
	defer e.mu.Unlock()
	was := e.told[t.Volume]
	switch stale := t.Stale(); {
	case stale != nil:
		e.told[t.Volume] = e.tellStale(t, was, stale)
	case t.Err != nil:
		e.told[t.Volume] = e.tellFailed(t, was)
	case t.Result.Outcome != publish.NotDue:
		e.tellFresh(t, was)
		e.told[t.Volume] = told{versions: t.Result.Record.Held.Versions}
	}
}

// Gone implements Listener.
func (e *Events) Gone(id volume.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.told, id)
}

func (e *Events) tellFailed(t Turn, was told) told {
	cause := t.Err.Error()
	if cause == was.failure && time.Since(was.at) < eventGap {
		return was
	}
	e.Event(t.Pod, corev1.EventTypeWarning, reasonPublishFailed, fmt.Sprintf("class %s: %s", t.Class, cause))
	if len(e.told) > maxTold { // pods that never had their volume leave without a word
		maps.DeleteFunc(e.told, func(_ volume.ID, is told) bool { return is.failure != "" && time.Since(is.at) > eventGap })
	}
	return told{failure: cause, at: time.Now()}
}

func (e *Events) tellStale(t Turn, was told, stale *publish.StaleError) told {
	reason := publish.Reason(stale)
	if reason == was.stale && time.Since(was.at) < eventGap {
		return was
	}
	e.Event(t.Pod, corev1.EventTypeWarning, reasonStale, fmt.Sprintf("class %s: the pod keeps the files that it has; stale since %s (%s): %v",
		t.Class, stale.Since.UTC().Format(time.RFC3339), reason, stale.Err))
	return told{stale: reason, at: time.Now(), versions: was.versions}
}

func (e *Events) tellFresh(t Turn, was told) {
	if was.stale != "" {
		e.Event(t.Pod, corev1.EventTypeNormal, reasonRecovered, fmt.Sprintf("class %s: the files are up to date again", t.Class))
	}
	if t.Result.Outcome == publish.Rotated {
		e.Event(t.Pod, corev1.EventTypeNormal, reasonRotated, fmt.Sprintf("class %s: the pod has new files%s",
			t.Class, changes(was.versions, t.Result.Record.Held.Versions)))
	}
}

// changes names the objects of which versions differ.
func changes(was, is provider.Versions) string {
	names := make(map[string]struct{})
	for id, version := range is {
		if was[id] != version {
			names[id] = struct{}{}
		}
	}
	for id := range was {
		if _, ok := is[id]; !ok {
			names[id] = struct{}{}
		}
	}
	changed := slices.Sorted(maps.Keys(names))
	switch more := len(changed) - maxChanges; {
	case len(changed) == 0:
		return ""
	case more > 0:
		return fmt.Sprintf("; changed: %s and %d more", strings.Join(changed[:maxChanges], ", "), more)
	default:
		return "; changed: " + strings.Join(changed, ", ")
	}
}

// Event tells the pod something. The kind is corev1.EventTypeNormal or
// corev1.EventTypeWarning. It does not wait: while too many events wait to be
// sent, it drops this one.
func (e *Events) Event(pod provider.Pod, kind, reason, message string) {
	select {
	case e.backlog <- event{pod, kind, reason, oneLine(message)}:
	default:
		klog.InfoS("Too many events wait for the API server; one is dropped", "pod", klog.KRef(pod.Namespace, pod.Name), "reason", reason, "message", oneLine(message))
	}
}

// oneLine returns the text without line breaks, cut to what an event may have.
func oneLine(text string) string {
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?")
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage-3], "") + "..."
}

// Run sends events until ctx ends. Many events of one pod, or equal ones of
// many, are aggregated, and there is a limit to their rate: that of client-go.
func (e *Events) Run(ctx context.Context) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(eventSink{ctx, e.client})
	recorder := broadcaster.NewRecorder(runtime.NewScheme(), corev1.EventSource{Component: component, Host: e.node})
	for {
		select {
		case <-ctx.Done():
			return nil
		case ev := <-e.backlog:
			recorder.Event(&corev1.ObjectReference{
				APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Pod",
				Namespace: ev.pod.Namespace, Name: ev.pod.Name, UID: types.UID(ev.pod.UID),
			}, ev.kind, ev.reason, ev.message)
		}
	}
}

// An eventSink is where the broadcaster sends events to.
type eventSink struct {
	ctx    context.Context // of Events.Run
	client *Client
}

func (s eventSink) call() (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.ctx, callTimeout)
}

// Create implements record.EventSink.
func (s eventSink) Create(event *corev1.Event) (*corev1.Event, error) {
	ctx, cancel := s.call()
	defer cancel()
	return s.client.events(event.Namespace).Create(ctx, event, metav1.CreateOptions{})
}

// Update implements record.EventSink; the broadcaster patches instead.
func (s eventSink) Update(event *corev1.Event) (*corev1.Event, error) {
	ctx, cancel := s.call()
	defer cancel()
	return s.client.events(event.Namespace).Update(ctx, event, metav1.UpdateOptions{})
}

// Patch implements record.EventSink.
func (s eventSink) Patch(event *corev1.Event, data []byte) (*corev1.Event, error) {
	ctx, cancel := s.call()
	defer cancel()
	return s.client.events(event.Namespace).Patch(ctx, event.Name, types.StrategicMergePatchType, data, metav1.PatchOptions{})
}
