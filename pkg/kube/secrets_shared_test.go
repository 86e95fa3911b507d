package kube

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/kube/secretobject"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/volume"
)

// recheckNow compares all Secrets, as happens every five minutes.
func (s *stage) recheckNow(copies ...*Secrets) {
	for _, c := range copies {
		for _, key := range c.keys() {
			c.queue.Add(key)
		}
	}
}

// ofOther returns the volume and the class as those of the class "other".
func ofOther(rec volume.Record, c *class.Class) (volume.Record, *class.Class) {
	rec.Class.Name, c.Name.Name = "other", "other"
	return rec, c
}

func (s *stage) ownersOfCopy() []string {
	owners, _ := field(s.get(secrets+"copy"), "metadata", "ownerReferences").([]any)
	var uids []string
	for _, o := range owners {
		uids = append(uids, fmt.Sprint(o.(object)["uid"]))
	}
	slices.Sort(uids)
	return uids
}

func TestTwoClassesThatWantOneSecret(t *testing.T) {
	s := newStage(t)
	c, events := s.copier()
	first := aVolume("2")
	s.pod(first)
	c.Ended(s.holding(first, copying("r", "copy"), "one"))
	s.holds("copy", "one")

	// That of the second class comes first in every order, and yet is too late.
	second, cl := ofOther(aVolume("1"), copying("r", "copy"))
	s.pod(second)
	c.Ended(s.holding(second, cl, "theirs"))
	if ev := <-events.backlog; ev.pod != second.Pod || !strings.Contains(ev.message, "it is that of class ns/c") {
		t.Errorf("event %+v", ev)
	}
	first.Refreshed = first.Refreshed.Add(time.Second)
	c.Ended(s.holding(first, copying("r", "copy"), "two"))
	s.holds("copy", "two")
	if len(events.backlog) > 0 {
		t.Errorf("the first is told: %+v", <-events.backlog)
	}

	// Once the first drops it, the second has it.
	c.Ended(s.holding(first, copying("r2", "elsewhere"), "two"))
	s.eventually("it is the second's", func() bool {
		return field(s.get(secrets+"copy"), "metadata", "annotations", classAnnotation) == "ns/other"
	})
	s.holds("copy", "theirs")
	s.holds("elsewhere", "two")
}

// Nodes write at the same time. What was fetched last wins, and every pod owns.
func TestNodesThatShareASecretAgree(t *testing.T) {
	s := newStage(t)
	start := time.Now().Add(-time.Hour)
	var nodes []*Secrets
	var want []string
	for i := range 8 {
		c, _ := s.copier()
		nodes = append(nodes, c)
		rec := aVolume(fmt.Sprint(i))
		rec.Refreshed = start.Add(time.Duration(i*5%8) * time.Second)
		s.pod(rec, replicaSet(fmt.Sprint("rs-", i)))
		want = append(want, fmt.Sprint("rs-", i))
		c.Ended(s.holding(rec, copying("r", "copy"), fmt.Sprint("content ", i*5%8)))
	}
	s.eventually("all own it", func() bool { return slices.Equal(s.ownersOfCopy(), want) })
	s.holds("copy", "content 7")
	for _, c := range nodes {
		s.settledIn(c)
	}
	written := len(s.writes())
	reads := len(s.requests("GET " + secrets))
	s.recheckNow(nodes...)
	s.eventually("each has looked again", func() bool { return len(s.requests("GET "+secrets)) >= reads+len(nodes) })
	if got := len(s.writes()); got != written {
		t.Errorf("%d writes while nothing changed", got-written)
	}
	s.holds("copy", "content 7")
}

func TestWhatTheStoreStillHasCostsNoCall(t *testing.T) {
	s := newStage(t)
	c, _ := s.copier()
	rec := aVolume("1")
	s.pod(rec)
	c.Ended(s.holding(rec, copying("r", "copy"), "one"))
	s.holds("copy", "one")
	s.settledIn(c)
	calls := len(s.requests(""))
	for _, unchanged := range []bool{true, false} { // a plugin may return all files each time
		rec.Refreshed = rec.Refreshed.Add(time.Second)
		turn := s.holding(rec, copying("r", "copy"), "one")
		turn.Result.Outcome, turn.Result.Bundle.Unchanged = publish.Unchanged, unchanged
		c.Ended(turn)
	}
	if c.queue.Len() > 0 || len(s.requests("")) != calls {
		t.Errorf("calls: %q", s.requests("")[calls:])
	}
	if got := c.copies["1"].asOf; !got.Equal(rec.Refreshed) {
		t.Errorf("it is known to be fresh as of %v, want %v", got, rec.Refreshed)
	}
}

func TestACallThatComesLateDoesNotBringBackOldContent(t *testing.T) {
	s := newStage(t)
	c, _ := s.copier()
	rec := aVolume("1")
	s.pod(rec)
	old := s.holding(rec, copying("r", "copy"), "old")
	rec.Refreshed = rec.Refreshed.Add(time.Second)
	c.Ended(s.holding(rec, copying("r", "copy"), "new"))
	c.Ended(old)
	s.holds("copy", "new")
	s.settledIn(c)
	s.holds("copy", "new")
}

func TestOwnersAreAskedForAgainWhenTheSecretIsMadeAnew(t *testing.T) {
	s := newStage(t)
	c, _ := s.copier()
	rec := aVolume("1")
	s.pod(rec, replicaSet("old"))
	c.Ended(s.holding(rec, copying("r", "copy"), "one"))
	s.holds("copy", "one")
	s.settledIn(c)
	s.pod(rec, replicaSet("new")) // which adopted the pod; the old one was deleted, and the Secret with it
	s.remove(secrets + "copy")
	s.recheckNow(c)
	s.holds("copy", "one")
	if got := s.ownersOfCopy(); !slices.Equal(got, []string{"new"}) {
		t.Errorf("owners %v", got)
	}
	s.settledIn(c)

	// A pod that is going does not make it again.
	s.put(pods+rec.Pod.Name, object{"apiVersion": "v1", "kind": "Pod", "metadata": object{
		"name": rec.Pod.Name, "uid": rec.Pod.UID, "deletionTimestamp": time.Now().UTC().Format(time.RFC3339),
	}})
	s.remove(secrets + "copy")
	asked := len(s.requests("GET " + pods))
	s.recheckNow(c)
	s.eventually("the pod was looked at", func() bool { return len(s.requests("GET "+pods)) > asked })
	s.settledIn(c)
	if s.get(secrets+"copy") != nil {
		t.Error("a Secret without an owner was made")
	}
}

func TestAMirrorPodIsThatOfItsStaticPod(t *testing.T) {
	s := newStage(t)
	c, _ := s.copier()
	rec := aVolume("1")
	s.put(pods+rec.Pod.Name, object{"apiVersion": "v1", "kind": "Pod", "metadata": object{
		"name": rec.Pod.Name, "uid": "mirror", "annotations": object{mirrorAnnotation: rec.Pod.UID},
	}})
	c.Ended(s.holding(rec, copying("r", "copy"), "one"))
	s.holds("copy", "one")
	if got := s.ownersOfCopy(); !slices.Equal(got, []string{"mirror"}) {
		t.Errorf("owners %v", got)
	}
}

func TestContentThatCannotBeMadeKeepsTheSecretAlive(t *testing.T) {
	s := newStage(t)
	c, events := s.copier()
	one, two := aVolume("1"), aVolume("2")
	s.pod(one, replicaSet("rs-1"))
	s.pod(two, replicaSet("rs-2"))
	c.Ended(s.holding(one, copying("r", "copy"), "one"))
	s.holds("copy", "one")
	two.Refreshed = one.Refreshed.Add(time.Second)
	turn := s.holding(two, copying("r", "copy"), "one")
	turn.Result.Bundle.Files = turn.Result.Bundle.Files[1:]
	c.Ended(turn)
	s.eventually("both own it", func() bool { return slices.Equal(s.ownersOfCopy(), []string{"rs-1", "rs-2"}) })
	s.holds("copy", "one")
	if ev := <-events.backlog; ev.pod != two.Pod || !strings.Contains(ev.message, "the volume has no such file") {
		t.Errorf("event %+v", ev)
	}
}

// A class that asks again for what it dropped has nothing to remove, also when
// the volumes of this node are gone.
func TestASecretThatIsAskedForAgainStays(t *testing.T) {
	s := newStage(t)
	s.refuse = func(verb, _ string) int { return map[string]int{"DELETE": http.StatusServiceUnavailable}[verb] }
	c, _ := s.copier()
	rec := aVolume("1")
	s.pod(rec)
	c.Ended(s.holding(rec, copying("r1", "copy"), "one"))
	s.holds("copy", "one")
	c.Ended(s.holding(rec, copying("r2", "other"), "one"))
	s.eventually("its removal failed", func() bool { return len(s.requests("DELETE "+secrets+"copy")) > 0 })
	c.Ended(s.holding(rec, copying("r3", "copy", "other"), "one"))
	s.holds("other", "one")
	c.Gone(rec.ID)
	if got := c.keys(); len(got) > 0 {
		t.Errorf("still to be written or removed: %v", got)
	}
}

// The status object has every Secret that there is: an earlier driver's, which
// is heard of late, and one that could not be removed yet.
func TestTheStatusNamesWhatIsThere(t *testing.T) {
	s := newStage(t)
	c, _ := s.copier()
	rec := aVolume("1")
	s.pod(rec)
	c.status.Ended(s.publish(rec, publish.Created))
	names := func(want ...string) func() bool {
		return func() bool {
			c.status.mu.Lock()
			defer c.status.mu.Unlock()
			return slices.Equal(c.status.known[rec.ID].secrets, want)
		}
	}
	c.Ended(s.holding(rec, copying("r1", "copy"), "one"))
	s.eventually("it names the copy", names("copy"))
	s.mu.Lock()
	s.refuse = func(verb, _ string) int { return map[string]int{"DELETE": http.StatusServiceUnavailable}[verb] }
	s.mu.Unlock()
	s.put(secrets+"older", somebodys(object{managedLabel: "true"}, object{classAnnotation: "ns/c"}, nil))
	c.Recall(rec, []string{"older"})
	s.eventually("its removal failed", func() bool { return len(s.requests("DELETE "+secrets+"older")) > 0 })
	s.eventually("it names both", names("copy", "older"))
	s.mu.Lock()
	s.refuse = nil
	s.mu.Unlock()
	s.eventually("it names the copy alone", names("copy"))
	if s.get(secrets+"older") != nil {
		t.Error("the older Secret is still there")
	}
}

// A plugin that writes files itself is asked once, and costs nothing then; what
// was copied before stays.
func TestAProviderWithoutFilesIsAskedOnce(t *testing.T) {
	s := newStage(t)
	s.put(secrets+"copy", somebodys(object{managedLabel: "true"}, object{classAnnotation: "ns/c"}, nil))
	c, events := s.copier()
	rec := aVolume("1")
	s.pod(rec, replicaSet("ours"))
	turn := s.holding(rec, copying("r", "copy"), "x")
	turn.Result.Bundle = &provider.Bundle{Unchanged: true}
	c.Ended(turn)
	c.Recall(rec, []string{"copy"})
	if c.NeedsFiles(rec.ID, copying("r", "copy")) || !c.NeedsFiles(rec.ID, copying("r2", "copy")) {
		t.Error("files are asked for again, or not after the class changed")
	}
	if ev := <-events.backlog; !strings.Contains(ev.message, `secretObjects need a provider that returns files; "file" writes them itself`) {
		t.Errorf("event %+v", ev)
	}
	s.eventually("it owns the Secret", func() bool { return slices.Contains(s.ownersOfCopy(), "ours") })
	s.settledIn(c)
	if field(s.get(secrets+"copy"), "data", "k") != "b2xk" || len(events.backlog) > 0 {
		t.Error("what was copied before was changed, or the pod told of it again")
	}
}

func TestLabelsAndAnnotationsOfTheDriverAreItsOwn(t *testing.T) {
	s := newStage(t)
	c, _ := s.copier()
	rec := aVolume("1")
	s.pod(rec)
	cl := copying("r", "copy")
	cl.SecretObjects[0].Labels = map[string]string{managedLabel: "false"}
	cl.SecretObjects[0].Annotations = map[string]string{classAnnotation: "ns/other", asOfAnnotation: "never"}
	c.Ended(s.holding(rec, cl, "one"))
	is := s.holds("copy", "one")
	if field(is, "metadata", "labels", managedLabel) != "true" || field(is, "metadata", "annotations", classAnnotation) != "ns/c" {
		t.Errorf("the Secret: %v", is["metadata"])
	}
	s.settledIn(c)
	reads := len(s.requests("GET " + secrets))
	s.recheckNow(c)
	s.eventually("it has looked again", func() bool { return len(s.requests("GET "+secrets)) > reads })
	s.settledIn(c)
	if got := len(s.writes()); got != 1 {
		t.Errorf("%d writes: %q", got, s.writes())
	}
}

func TestASecretThatIsBeingDeletedIsMadeAnew(t *testing.T) {
	s := newStage(t)
	s.put(secrets+"copy", object{"apiVersion": "v1", "kind": "Secret", "metadata": object{"deletionTimestamp": time.Now().UTC().Format(time.RFC3339)}})
	c, events := s.copier()
	rec := aVolume("1")
	s.pod(rec)
	c.Ended(s.holding(rec, copying("r", "copy"), "one"))
	s.eventually("it was looked at", func() bool { return len(s.requests("GET "+secrets)) > 0 })
	s.remove(secrets + "copy")
	s.holds("copy", "one")
	if len(events.backlog) > 0 {
		t.Errorf("event %+v", <-events.backlog)
	}
	s.put(secrets+"copy", object{"apiVersion": "v1", "kind": "Secret", "metadata": object{"deletionTimestamp": "2020-01-01T00:00:00Z"}})
	s.recheckNow(c)
	if ev := <-events.backlog; !strings.Contains(ev.message, "its finalizers keep it") {
		t.Errorf("event %+v", ev)
	}
}

func TestANameThatIsNoneIsToldAndNotAskedFor(t *testing.T) {
	s := newStage(t)
	c, events := s.copier()
	rec := aVolume("1")
	for _, name := range []string{"../x", "a/b", "Copy", ".."} {
		c.Ended(s.holding(rec, copying("r", name), "one"))
		if ev := <-events.backlog; !strings.Contains(ev.message, "cannot be the name of a Secret") {
			t.Errorf("%q: event %+v", name, ev)
		}
	}
	s.settledIn(c)
	if got := s.requests(""); len(got) > 0 {
		t.Errorf("requests: %q", got)
	}
}

func TestAnEventHasTheCauseIfAPodCanBeTold(t *testing.T) {
	resource := schema.GroupResource{Resource: "secrets"}
	terminating := apierrors.NewForbidden(resource, "copy", errors.New("namespace ns is being terminated"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: corev1.NamespaceTerminatingCause}}
	for _, c := range []struct {
		name  string
		err   error
		event string
		again bool
	}{
		{"the API server does not answer", errors.New("connection refused"), "", true},
		{"the namespace goes", terminating, "", false},
		{"a quota", apierrors.NewForbidden(resource, "copy", errors.New("exceeded quota: small")), "secret copy: secrets \"copy\" is forbidden: exceeded quota: small", true},
		{"a mistake in the class", apierrors.NewInvalid(schema.GroupKind{Kind: "Secret"}, "copy", nil), "is invalid", false},
		{"the API server is not well", &apierrors.StatusError{ErrStatus: metav1.Status{Code: http.StatusInternalServerError, Message: "etcd is away"}}, "etcd is away", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			e := NewEvents(s.client, "n", nil)
			copies := NewSecrets(s.client, e, NewStatuses(s.client, &s.volumes, "n"))
			copies.Ended(s.holding(aVolume("1"), copying("r", "copy"), "one"))
			if err := copies.failed(types.NamespacedName{Namespace: "ns", Name: "copy"}, c.err); (err != nil) != c.again {
				t.Errorf("failed = %v, want it again: %v", err, c.again)
			}
			told := ""
			if len(e.backlog) > 0 {
				told = (<-e.backlog).message
			}
			if !strings.Contains(told, c.event) || (told == "") != (c.event == "") {
				t.Errorf("event %q, want %q", told, c.event)
			}
		})
	}
}

// A policy of the cluster sees the Secret, and may quote it when it refuses.
func TestARefusalThatQuotesContentIsNotShown(t *testing.T) {
	const canary = "canary-77aa"
	w := &wish{secret: &secretobject.Secret{Data: map[string]secret.Value{"k": secret.New([]byte(canary + "\n")), "short": secret.New([]byte("it"))}}}
	for _, quote := range []string{canary, base64.StdEncoding.EncodeToString([]byte(canary + "\n"))} {
		err := w.discreet(apierrors.NewForbidden(schema.GroupResource{Resource: "secrets"}, "copy", errors.New("weak password: "+quote)))
		if err == nil || strings.Contains(err.Error(), quote) || !strings.Contains(err.Error(), "Forbidden") {
			t.Errorf("discreet = %v", err)
		}
	}
	conflict := apierrors.NewConflict(schema.GroupResource{Resource: "secrets"}, "copy", errors.New("it was changed"))
	if err := w.discreet(conflict); !apierrors.IsConflict(err) {
		t.Errorf("discreet = %v, want the conflict", err)
	}
}
