package kube

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	corev1 "k8s.io/api/core/v1"

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
	reasonExpired       = "SecretExpired"          // Warning
	component           = "keymount-driver"
	eventBacklog        = 256              // events that may wait to be sent
	eventGap            = 5 * time.Minute  // between two equal events of a volume, or two of warnings
	staleGap            = 10 * time.Minute // between two reasons why it is stale
	maxMessage          = 1024             // what the API takes for an event
	maxChanges          = 10               // objects that a message names
	maxTold             = 1000             // volumes, from which on failures of long ago are forgotten
)

// Events tells pods what becomes of their volumes: that publishing failed, and
// why, the same at most every five minutes; that content was rotated; that a
// volume is stale, once, and again for another reason; that it no longer is; and
// that what it serves has expired, once, and again when other objects have.
type Events struct {
	client  *Client
	node    string
	backlog chan event
	dropped atomic.Int64 // events that found it full

	mu   sync.Mutex
	told map[volume.ID]told
}

// An event waits to be sent.
type event struct {
	pod                   provider.Pod
	kind, reason, message string
}

// requestID matches the ID that a store gives a request, which makes no other
// failure of it.
var requestID = regexp.MustCompile(` \(request [^()]{1,100}\)`)

// told is what a pod was told of a volume.
type told struct {
	failure  string            // of the last publish, without IDs of requests; "" once it succeeded
	stale    string            // reason; "" while it is fresh
	at       time.Time         // when failure or stale was told
	versions provider.Versions // held when it was fresh
	warned   warned
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
		e.told[t.Volume] = told{versions: t.Result.Record.Held.Versions, warned: e.tellWarned(t, was.warned)}
	}
}

// Gone implements Listener.
func (e *Events) Gone(id volume.ID) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.told, id)
}

func (e *Events) tellFailed(t Turn, was told) told {
	cause := oneLine(t.Err.Error())
	same := requestID.ReplaceAllString(cause, "")
	if same == was.failure && time.Since(was.at) < eventGap {
		return was
	}
	e.Event(t.Pod, corev1.EventTypeWarning, reasonPublishFailed, fmt.Sprintf("class %s: %s", t.Class, cause))
	if len(e.told) > maxTold { // pods that never had their volume leave without a word
		maps.DeleteFunc(e.told, func(_ volume.ID, is told) bool { return is.failure != "" && time.Since(is.at) > eventGap })
	}
	return told{failure: same, at: time.Now(), stale: was.stale, versions: was.versions, warned: was.warned}
}

func (e *Events) tellStale(t Turn, was told, stale *publish.StaleError) told {
	reason := publish.Reason(stale)
	if was.stale != "" && (reason == was.stale || time.Since(was.at) < staleGap) {
		return was
	}
	e.Event(t.Pod, corev1.EventTypeWarning, reasonStale, fmt.Sprintf("class %s: the pod keeps the files that it has; stale since %s (%s): %v",
		t.Class, stale.Since.UTC().Format(time.RFC3339), reason, stale.Err))
	return told{stale: reason, at: time.Now(), versions: was.versions, warned: was.warned}
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
		e.dropped.Add(1)
	}
}

// oneLine returns the text without line breaks and what else a terminal obeys,
// cut to what an event may have.
func oneLine(text string) string {
	text = strings.ToValidUTF8(strings.Join(strings.Fields(text), " "), "?")
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return '?'
		}
		return r
	}, text)
	if len(text) <= maxMessage {
		return text
	}
	return strings.ToValidUTF8(text[:maxMessage-3], "") + "..."
}
