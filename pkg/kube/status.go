package kube

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"

	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

const (
	// writers is how many objects are written at the same time.
	writers = 2
	// messageGap is the least time between two writes of a status that differ
	// only in what the last failure said.
	messageGap = 5 * time.Minute
)

// The conditions of a status object.
const (
	conditionReady = "Ready" // the volume is mounted and holds a whole bundle
	conditionStale = "Stale" // refreshes fail, and it keeps what it held
)

// Statuses keeps one SecretProviderClassPodStatus for each published volume.
// It writes an object when what it says has changed, and at no other time.
// Kubernetes removes the object with its pod.
type Statuses struct {
	client  *Client
	volumes volume.Store
	node    string

	mu    sync.Mutex
	known map[volume.ID]*status
	queue workqueue.TypedRateLimitingInterface[volume.ID] // of Run; nil before
}

// A status is what is known of one object. It is guarded by Statuses.mu.
type status struct {
	name       string    // of the object; "" until it was written
	applied    PodStatus // as it was written last
	written    time.Time
	generation int64    // of the class whose content the volume holds
	secrets    []string // copies in Kubernetes Secrets
	synced     bool     // secrets is known from this process
}

// NewStatuses returns the statuses of the volumes of a node. It makes no call.
func NewStatuses(client *Client, volumes volume.Store, node string) *Statuses {
	return &Statuses{client: client, volumes: volumes, node: node, known: make(map[volume.ID]*status)}
}

// Ended implements Listener.
func (s *Statuses) Ended(t Turn) {
	if t.Err != nil && t.Stale() == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.known[t.Volume]
	st := s.of(t.Volume)
	if t.Result.Class != nil {
		st.generation = t.Result.Class.Generation
	}
	if !known || t.Err != nil || t.Result.Outcome != publish.NotDue {
		s.add(t.Volume)
	}
}

// Gone implements Listener. It may come late, when the volume is published
// again: the store knows.
func (s *Statuses) Gone(id volume.ID) {
	if _, published := s.volumes.Get(id); published {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.known, id)
	if s.queue != nil {
		s.queue.Forget(id)
	}
}

// Synced tells which Kubernetes Secrets have copies of a volume's files.
func (s *Statuses) Synced(id volume.ID, secrets []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.of(id)
	st.secrets, st.synced = secrets, true
	s.add(id)
}

// of returns what is known of a volume. It needs mu.
func (s *Statuses) of(id volume.ID) *status {
	st := s.known[id]
	if st == nil {
		st = &status{}
		s.known[id] = st
	}
	return st
}

// add has a volume's object compared, and written if it differs. Run begins
// with all volumes. It needs mu.
func (s *Statuses) add(id volume.ID) {
	if s.queue != nil {
		s.queue.Add(id)
	}
}

// Run writes until ctx ends. Before it writes anything it reads, in one list,
// what an earlier driver of this node has written. Then it calls known with
// the Secrets that each volume had.
func (s *Statuses) Run(ctx context.Context, known func(rec volume.Record, secrets []string)) error {
	queue := newQueue[volume.ID]()
	var running sync.WaitGroup
	defer running.Wait()
	defer queue.ShutDown()
	s.mu.Lock()
	s.queue = queue
	s.mu.Unlock()
	if !retry(ctx, "Status objects of this node cannot be listed", func() error { return s.list(ctx) }) {
		return nil
	}
	for _, rec := range s.volumes.List() {
		known(rec, s.recalled(rec.ID))
		queue.Add(rec.ID)
	}
	for range writers {
		running.Go(func() { work(ctx, queue, "Write status of volume", s.write) })
	}
	<-ctx.Done()
	return nil
}

// recalled returns the Secrets that the volume's object names.
func (s *Statuses) recalled(id volume.ID) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of(id).applied.Secrets
}

// write brings one object up to date. What is known of a volume that is no
// longer published came late, and is forgotten.
func (s *Statuses) write(ctx context.Context, id volume.ID) error {
	rec, published := s.volumes.Get(id)
	s.mu.Lock()
	if !published {
		delete(s.known, id)
		s.mu.Unlock()
		return nil
	}
	st := s.of(id)
	name, next := st.name, st.next(rec)
	wait := st.wait(next)
	s.mu.Unlock()
	switch {
	case wait < 0:
		return nil
	case wait > 0:
		s.queue.AddAfter(id, wait) // of this Run
		return nil
	}
	name, err := s.apply(ctx, rec, name, next)
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // the pod is going, and its object would be the next to go
	case err != nil:
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st.name, st.applied, st.written = name, next, time.Now()
	return nil
}

// next returns the status as it should be.
func (st *status) next(rec volume.Record) PodStatus {
	next := PodStatus{
		PodName:                 rec.Pod.Name,
		SecretProviderClassName: rec.Class.Name,
		Mounted:                 true,
		TargetPath:              rec.Target,
		Conditions:              slices.Clone(st.applied.Conditions),
		LastRefreshTime:         &metav1.Time{Time: rec.Refreshed.Truncate(time.Second)},
		ClassGeneration:         st.generation,
		Secrets:                 st.secrets,
	}
	for id, version := range rec.Held.Versions {
		next.Objects = append(next.Objects, ObjectVersion{ID: id, Version: version})
	}
	slices.SortFunc(next.Objects, func(a, b ObjectVersion) int { return strings.Compare(a.ID, b.ID) })
	stale := metav1.Condition{Type: conditionStale, Status: metav1.ConditionFalse, Reason: "Fresh"}
	if !rec.Stale.IsZero() {
		stale.Status, stale.Reason = metav1.ConditionTrue, rec.Stale.Reason
		stale.Message = oneLine(rec.Stale.Message)
		stale.LastTransitionTime = metav1.NewTime(rec.Stale.Since.Truncate(time.Second))
	}
	ready := metav1.Condition{
		Type: conditionReady, Status: metav1.ConditionTrue, Reason: "Published",
		LastTransitionTime: metav1.NewTime(rec.Published.Truncate(time.Second)),
	}
	// Without observedGeneration, which is about the generation of the status
	// object itself: kubectl wait would not believe a condition that has
	// another one.
	meta.SetStatusCondition(&next.Conditions, ready)
	meta.SetStatusCondition(&next.Conditions, stale)
	return next
}

// wait returns how long to wait before next is written: below zero if it says
// nothing new.
func (st *status) wait(next PodStatus) time.Duration {
	switch {
	case st.name == "" || !equality.Semantic.DeepEqual(gist(st.applied, false), gist(next, false)):
		return 0
	case equality.Semantic.DeepEqual(gist(st.applied, true), gist(next, true)):
		return -1
	default:
		return max(0, time.Until(st.written.Add(messageGap)))
	}
}

// gist returns a copy without times, and without messages unless they count.
func gist(s PodStatus, messages bool) PodStatus {
	s.LastRefreshTime = nil
	s.Conditions = slices.Clone(s.Conditions)
	for i := range s.Conditions {
		s.Conditions[i].LastTransitionTime = metav1.Time{}
		if !messages {
			s.Conditions[i].Message = ""
		}
	}
	return s
}
