package kube

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/client-go/util/workqueue"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/kube/secretobject"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// recheck is how often the Secrets are compared again with what they should
// be: somebody may have changed or removed one.
const recheck = 5 * time.Minute

// Secrets keeps copies of files in Kubernetes Secrets, where the secretObjects
// of a class ask for that. It makes them from the bundle that was fetched, and
// keeps that in memory as long as the volume is published. Pods of one class
// share a Secret, on one node and on several; what was fetched last counts.
type Secrets struct {
	client *Client
	events *Events
	status *Statuses
	queue  workqueue.TypedRateLimitingInterface[types.NamespacedName]

	mu      sync.Mutex
	copies  map[volume.ID]*copies
	dropped map[types.NamespacedName][]class.Name // classes that no longer ask for a Secret that they had
}

// copies are the Secrets of one volume. They are guarded by Secrets.mu.
type copies struct {
	class    class.Name
	revision string // of the class when the content was fetched; "" before
	pod      provider.Pod
	fetched  time.Time               // when this content came
	asOf     time.Time               // when the store last had it
	wanted   map[string]*copied      // by name of the Secret
	written  map[string]bool         // names of those that were written, and not removed yet
	owners   []metav1.OwnerReference // none if the pod is gone
	asked    time.Time               // when owners were asked for; zero before
	told     map[string]complaint    // by name of the Secret
}

// A copied Secret is what the class asks for, and the files that it needs. To
// take a key store apart may take long, so that it is not made at once.
type copied struct {
	object class.SecretObject
	files  []provider.File
	made   *secretobject.Secret // nil until it was made
	failed bool                 // it cannot be made
}

// A complaint is an event that a pod was told.
type complaint struct {
	message string
	at      time.Time
}

// NewSecrets returns the copies for the volumes of a node. Events tells pods
// why one cannot be written, status which there are. It makes no call.
func NewSecrets(client *Client, events *Events, status *Statuses) *Secrets {
	return &Secrets{
		client: client, events: events, status: status,
		queue:   newQueue[types.NamespacedName](),
		copies:  make(map[volume.ID]*copies),
		dropped: make(map[types.NamespacedName][]class.Name),
	}
}

// NeedsFiles reports whether the class asks for copies of which this process
// has not seen the content: a restart forgets it. A provider that was asked,
// and returned no files, is not asked again.
func (s *Secrets) NeedsFiles(id volume.ID, c *class.Class) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.copies[id]
	return len(c.SecretObjects) > 0 && (known == nil || known.revision != c.Revision)
}

// Ended implements Listener.
func (s *Secrets) Ended(t Turn) {
	c, bundle := t.Result.Class, t.Result.Bundle
	if t.Err != nil || c == nil || bundle == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.copies[t.Volume]
	switch {
	case known == nil && len(c.SecretObjects) == 0:
	case known != nil && known.revision == c.Revision && (bundle.Unchanged || t.Result.Outcome == publish.Unchanged):
		if t.Result.Record.Refreshed.After(known.asOf) {
			known.asOf = t.Result.Record.Refreshed
		}
	default:
		s.renew(t, known)
	}
}

// renew makes the copies of a volume anew, from what was fetched. Calls may
// overtake each other on their way here.
func (s *Secrets) renew(t Turn, known *copies) {
	at := t.Result.Record.Refreshed
	next := &copies{
		class: t.Class, revision: t.Result.Class.Revision, pod: t.Pod, fetched: at, asOf: at,
		wanted: make(map[string]*copied), written: make(map[string]bool),
	}
	if known != nil {
		if at.Before(known.fetched) {
			return
		}
		if known.revision == next.revision && known.asOf.After(at) {
			next.asOf = known.asOf
		}
		next.written, next.owners, next.asked, next.told = known.written, known.owners, known.asked, known.told
	}
	s.copies[t.Volume] = next
	s.want(next, t.Result)
	s.drop(next)
	for name := range next.wanted {
		s.undrop(next.key(name), next.class)
		s.queue.Add(next.key(name))
	}
}

// maxCopies bounds the Secrets of one class, each of which may have a megabyte.
const maxCopies = 100

// want notes what the class asks for, and the files for it.
func (s *Secrets) want(c *copies, res publish.Result) {
	none := res.Bundle.Unchanged // its files were asked for
	for i, o := range res.Class.SecretObjects {
		name := strings.TrimSpace(o.SecretName)
		switch _, twice := c.wanted[name]; {
		case len(c.wanted) == maxCopies:
			s.complain(c, "", fmt.Sprintf("secretObjects has more than %d entries: make two classes of it", maxCopies))
			return
		case name == "":
			s.complain(c, name, fmt.Sprintf("secretObjects[%d]: secretName is empty: name the Secret", i))
		case len(validation.IsDNS1123Subdomain(name)) > 0:
			s.complain(c, name, fmt.Sprintf("secretObjects[%d]: secretName %q cannot be the name of a Secret: use lower case letters, digits, '-' and '.'", i, name))
		case twice:
			s.complain(c, name, fmt.Sprintf("secretObjects[%d]: secretName %s is given twice: remove one", i, name))
		default:
			c.wanted[name] = &copied{object: o, files: needed(o, res.Bundle.Files), failed: none}
		}
	}
	if none && len(c.wanted) > 0 && res.Record.Held.Lease.IsZero() {
		s.complain(c, "", fmt.Sprintf("secretObjects need a provider that returns files; %q writes them itself", res.Class.Provider))
	}
}

// needed returns the files of which o asks for copies: the others are not kept.
func needed(o class.SecretObject, files []provider.File) []provider.File {
	var some []provider.File
	for _, f := range files {
		if slices.ContainsFunc(o.Data, func(d class.SecretData) bool { return strings.TrimSpace(d.ObjectName) == f.Path }) {
			some = append(some, f)
		}
	}
	return some
}

// drop has the Secrets removed that were written for a volume and that its
// class no longer asks for.
func (s *Secrets) drop(c *copies) {
	for name := range c.written {
		key := c.key(name)
		if c.wanted[name] != nil {
			continue
		}
		if !slices.Contains(s.dropped[key], c.class) {
			s.dropped[key] = append(s.dropped[key], c.class)
		}
		s.queue.Add(key)
	}
}

// undrop notes that the class has nothing to remove.
func (s *Secrets) undrop(key types.NamespacedName, name class.Name) {
	left := slices.DeleteFunc(s.dropped[key], func(n class.Name) bool { return n == name })
	s.dropped[key] = left
	if len(left) == 0 {
		delete(s.dropped, key)
	}
}

// Recall tells which Secrets an earlier driver wrote for a volume.
func (s *Secrets) Recall(rec volume.Record, names []string) {
	if len(names) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := s.copies[rec.ID]
	if known == nil {
		known = &copies{class: rec.Class, pod: rec.Pod, written: make(map[string]bool)}
		s.copies[rec.ID] = known
	}
	for _, name := range names {
		known.written[name] = true
	}
	if known.revision == "" {
		return // what the class asks for is not known yet
	}
	s.tellStatus(rec.ID, known) // which may have been told of others before
	s.drop(known)
}

// Gone implements Listener. The Secrets stay until their owners have gone.
func (s *Secrets) Gone(id volume.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.copies, id)
}

// Run writes until ctx ends.
func (s *Secrets) Run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	defer s.queue.ShutDown()
	for range writers {
		running.Go(func() { work(ctx, s.queue, "Write Kubernetes Secret", s.write) })
	}
	timer := time.NewTicker(recheck)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			for _, key := range s.keys() {
				s.queue.AddAfter(key, rand.N(recheck/10))
			}
		}
	}
}

// keys returns all Secrets that are wanted, or to be removed.
func (s *Secrets) keys() []types.NamespacedName {
	s.mu.Lock()
	defer s.mu.Unlock()
	keys := make(map[types.NamespacedName]bool)
	for key := range s.dropped {
		keys[key] = true
	}
	for _, c := range s.copies {
		for name := range c.wanted {
			keys[c.key(name)] = true
		}
	}
	return slices.Collect(maps.Keys(keys))
}

func (c *copies) key(name string) types.NamespacedName {
	return types.NamespacedName{Namespace: c.pod.Namespace, Name: name}
}

// wants reports whether the class asks for the Secret.
func (c *copies) wants(key types.NamespacedName) bool {
	return c.pod.Namespace == key.Namespace && c.wanted[key.Name] != nil
}

// tellStatus tells the status object of a volume which Secrets there are. It
// needs Secrets.mu, so that what is told last is what holds.
func (s *Secrets) tellStatus(id volume.ID, c *copies) {
	s.status.Synced(id, slices.Sorted(maps.Keys(c.written)))
}

// complain tells the pod why a Secret is not as its class asks, the same at
// most every five minutes. It needs Secrets.mu.
func (s *Secrets) complain(c *copies, name, message string) {
	if last := c.told[name]; last.message == message && time.Since(last.at) < eventGap {
		return
	}
	if c.told == nil {
		c.told = make(map[string]complaint)
	}
	c.told[name] = complaint{message, time.Now()}
	s.events.Event(c.pod, corev1.EventTypeWarning, reasonSecretFailed, fmt.Sprintf("class %s: %s", c.class, message))
}
