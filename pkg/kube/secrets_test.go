package kube

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// copier runs a driver that copies, until the test ends.
func (s *stage) copier() (*Secrets, *Events) {
	e := NewEvents(s.client, "n", nil)
	c := NewSecrets(s.client, e, NewStatuses(s.client, &s.volumes, "n"))
	s.run(func(done <-chan struct{}) error {
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-done; cancel() }()
		return c.Run(ctx)
	})
	return c, e
}

// copying returns a class with a Secret "copy" of the file "f".
func copying(revision string, names ...string) *class.Class {
	c := &class.Class{Name: className, Revision: revision, Provider: "file"}
	for _, name := range names {
		c.SecretObjects = append(c.SecretObjects, class.SecretObject{
			SecretName: name, Labels: map[string]string{"mine": "1"}, Data: []class.SecretData{{ObjectName: "f", Key: "k"}},
		})
	}
	return c
}

// holding returns the call that gave a volume the content.
func (s *stage) holding(rec volume.Record, c *class.Class, content string) Turn {
	turn := s.publish(rec, publish.Rotated)
	turn.Result.Class, turn.Result.Bundle = c, &provider.Bundle{Files: []provider.File{file("f", content), file("unused", "x")}}
	return turn
}

// pod makes the API server know the pod of a volume, with owners.
func (s *stage) pod(rec volume.Record, owners ...object) {
	s.put(pods+rec.Pod.Name, object{"apiVersion": "v1", "kind": "Pod", "metadata": object{"name": rec.Pod.Name, "uid": rec.Pod.UID, "ownerReferences": owners}})
}

func replicaSet(uid string) object {
	return object{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": uid, "controller": true, "blockOwnerDeletion": true}
}

// holds waits until a Secret has the content of its key.
func (s *stage) holds(name, content string) object {
	s.t.Helper()
	s.eventually("Secret "+name, func() bool {
		return field(s.get(secrets+name), "data", "k") == base64.StdEncoding.EncodeToString([]byte(content))
	})
	return s.get(secrets + name)
}

// settledIn waits until nothing is left to write.
func (s *stage) settledIn(c *Secrets) {
	s.t.Helper()
	s.eventually("the queue is empty", func() bool { return c.queue.Len() == 0 })
}

func TestASecretIsMadeWithItsOwnersAtOnce(t *testing.T) {
	s := newStage(t)
	c, _ := s.copier()
	rec := aVolume("1")
	s.pod(rec, replicaSet("rs-1"))
	cl := copying("r1", "copy")
	if !c.NeedsFiles(rec.ID, cl) {
		t.Error("the first content is not asked for")
	}
	c.Ended(s.holding(rec, cl, "one"))
	if c.NeedsFiles(rec.ID, cl) || !c.NeedsFiles(rec.ID, copying("r2", "copy")) || c.NeedsFiles("2", copying("r1")) {
		t.Error("files are asked for that are known, or not for those that are not")
	}
	is := s.holds("copy", "one")
	if diff := cmp.Diff([]any{object{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "rs-1"}}, field(is, "metadata", "ownerReferences")); diff != "" {
		t.Errorf("owners (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(object{"mine": "1", managedLabel: "true"}, field(is, "metadata", "labels")); diff != "" {
		t.Errorf("labels (-want +got):\n%s", diff)
	}
	if field(is, "metadata", "annotations", classAnnotation) != "ns/c" || is["type"] != "Opaque" {
		t.Errorf("the Secret: %v", field(is, "metadata", "annotations"))
	}
	if got := len(s.writes()); got != 1 {
		t.Errorf("%d writes: %q", got, s.writes())
	}
	for _, content := range []string{"one", "one", "two"} {
		rec.Refreshed = rec.Refreshed.Add(time.Second)
		c.Ended(s.holding(rec, cl, content))
		s.holds("copy", content)
		s.settledIn(c)
	}
	s.eventually("one more write", func() bool { return len(s.writes()) == 2 })
}

func TestASecretOfABarePodIsThePods(t *testing.T) {
	s := newStage(t)
	c, _ := s.copier()
	for id, owners := range map[string][]object{"bare": nil, "static": {{"apiVersion": "v1", "kind": "Node", "name": "n", "uid": "n"}}} {
		rec := aVolume(id)
		s.pod(rec, owners...)
		c.Ended(s.holding(rec, copying("r", id), "one"))
		want := []any{object{"apiVersion": "v1", "kind": "Pod", "name": rec.Pod.Name, "uid": rec.Pod.UID}}
		if diff := cmp.Diff(want, field(s.holds(id, "one"), "metadata", "ownerReferences")); diff != "" {
			t.Errorf("%s: owners (-want +got):\n%s", id, diff)
		}
	}
}

func TestVolumesThatShareASecretAddTheirOwners(t *testing.T) {
	s := newStage(t)
	c, _ := s.copier()
	cl := copying("r", "copy")
	for i, uid := range []string{"rs-1", "rs-2", "rs-2"} {
		rec := aVolume(fmt.Sprint(i))
		s.pod(rec, replicaSet(uid))
		c.Ended(s.holding(rec, cl, "one"))
	}
	s.eventually("two owners", func() bool {
		owners, _ := field(s.get(secrets+"copy"), "metadata", "ownerReferences").([]any)
		return len(owners) == 2
	})
	c.Gone("0")
	c.Gone("1")
	c.Gone("2")
	s.settledIn(c)
	if s.get(secrets+"copy") == nil || len(s.requests("DELETE")) > 0 {
		t.Error("the Secret was removed: its owners decide")
	}
}

// somebodys is a Secret that is there already.
func somebodys(labels, annotations object, more object) object {
	o := object{
		"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "data": object{"k": "b2xk", "theirs": "eA=="},
		"metadata": object{"labels": labels, "annotations": annotations, "ownerReferences": []object{replicaSet("theirs")}},
	}
	for name, value := range more {
		o[name] = value
	}
	return o
}

func TestASecretThatIsThereAlready(t *testing.T) {
	managed := object{managedLabel: "true", "kept": "1"}
	now := time.Now()
	at := func(d time.Duration) object {
		return object{classAnnotation: "ns/c", asOfAnnotation: now.Add(d).Format(time.RFC3339Nano), "kept": "1"}
	}
	for _, c := range []struct {
		name    string
		there   object
		written bool   // with the new content
		owners  int    // then
		event   string // that the pod gets
	}{
		{"somebody else made it", somebodys(object{"kept": "1"}, nil, nil), false, 1, "it exists and is not the driver's"},
		{"the upstream driver made it", somebodys(managed, nil, nil), true, 2, ""},
		{"it is older", somebodys(managed, at(-time.Hour), nil), true, 2, ""},
		{"it is newer: another node has fetched since", somebodys(managed, at(time.Minute), nil), false, 2, ""},
		{"it is of a time that has not come: a clock was wrong", somebodys(managed, at(time.Hour), nil), true, 2, ""},
		{"it is that of another class", somebodys(managed, object{classAnnotation: "ns/other"}, nil), false, 1, "it is that of class ns/other"},
		{"it has another type", somebodys(managed, at(-time.Hour), object{"type": "kubernetes.io/tls"}), false, 1, "it is of type kubernetes.io/tls"},
		{"it is immutable", somebodys(managed, at(-time.Hour), object{"immutable": true}), false, 1, "it is immutable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			s.put(secrets+"copy", c.there)
			copies, events := s.copier()
			rec := aVolume("1")
			rec.Refreshed = now
			s.pod(rec, replicaSet("ours"))
			copies.Ended(s.holding(rec, copying("r", "copy"), "new"))
			if c.event != "" {
				ev := <-events.backlog
				if ev.reason != reasonSecretFailed || !strings.Contains(ev.message, c.event) {
					t.Errorf("event %q, want %q", ev.message, c.event)
				}
			}
			owners := func() int { o, _ := field(s.get(secrets+"copy"), "metadata", "ownerReferences").([]any); return len(o) }
			s.eventually("the owners", func() bool { return owners() == c.owners })
			s.settledIn(copies)
			is := s.get(secrets + "copy")
			if got := field(is, "data", "k") == base64.StdEncoding.EncodeToString([]byte("new")); got != c.written {
				t.Errorf("written: %v, want %v", got, c.written)
			}
			if c.written && (field(is, "data", "theirs") != nil || field(is, "metadata", "labels", "kept") != "1") {
				t.Errorf("after a write the Secret is %v", is)
			}
			if _, kept := field(c.there, "metadata", "annotations", "kept").(string); kept && field(is, "metadata", "annotations", "kept") != "1" {
				t.Error("an annotation of somebody else is gone")
			}
		})
	}
}

func TestASecretThatTheClassDropsIsRemoved(t *testing.T) {
	for _, c := range []struct {
		name    string
		restart bool
	}{{"by the same driver", false}, {"by one that was restarted", true}} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			copies, _ := s.copier()
			rec := aVolume("1")
			s.pod(rec)
			copies.Ended(s.holding(rec, copying("r1", "copy", "other"), "one"))
			s.holds("copy", "one")
			s.holds("other", "one")
			s.settledIn(copies)
			s.put(secrets+"foreign", somebodys(nil, nil, nil))
			if c.restart {
				copies, _ = s.copier()
				copies.Recall(rec, []string{"copy", "other", "foreign"})
			}
			copies.Ended(s.holding(rec, copying("r2", "other"), "one"))
			s.eventually("the Secret is gone", func() bool { return s.get(secrets+"copy") == nil })
			s.settledIn(copies)
			if s.get(secrets+"other") == nil || s.get(secrets+"foreign") == nil {
				t.Error("another Secret was removed")
			}
			copies.Ended(s.holding(rec, copying("r3"), "one"))
			s.eventually("the other is gone", func() bool { return s.get(secrets+"other") == nil })
		})
	}
}

func TestASecretThatSomebodyChangedIsRestored(t *testing.T) {
	s := newStage(t)
	c, _ := s.copier()
	rec := aVolume("1")
	s.pod(rec)
	c.Ended(s.holding(rec, copying("r", "copy"), "one"))
	s.holds("copy", "one")
	s.settledIn(c)
	for _, damage := range []func(){
		func() { s.remove(secrets + "copy") },
		func() {
			is := s.get(secrets + "copy")
			s.put(secrets+"copy", somebodys(object{managedLabel: "true"}, field(is, "metadata", "annotations").(object), nil))
		},
	} {
		damage()
		for _, key := range c.keys() { // as every five minutes
			c.queue.Add(key)
		}
		s.holds("copy", "one")
	}
}

func TestWhatCannotBeCopiedIsToldToThePod(t *testing.T) {
	for _, c := range []struct {
		name string
		turn func(s *stage, rec volume.Record) Turn
		want string
	}{
		{"no name", func(s *stage, rec volume.Record) Turn { return s.holding(rec, copying("r", ""), "x") }, "secretObjects[0]: secretName is empty"},
		{"more than any class needs", func(s *stage, rec volume.Record) Turn {
			names := make([]string, 101)
			for i := range names {
				names[i] = fmt.Sprint("copy-", i)
			}
			return s.holding(rec, copying("r", names...), "x")
		}, "secretObjects has more than 100 entries"},
		{"a name twice", func(s *stage, rec volume.Record) Turn { return s.holding(rec, copying("r", "copy", "copy"), "x") }, "secretName copy is given twice"},
		{"no such file", func(s *stage, rec volume.Record) Turn {
			turn := s.holding(rec, copying("r", "copy"), "x")
			turn.Result.Bundle.Files = turn.Result.Bundle.Files[1:]
			return turn
		}, "the volume has no such file"},
		{"a plugin that writes files itself", func(s *stage, rec volume.Record) Turn {
			turn := s.holding(rec, copying("r", "copy"), "x")
			turn.Result.Outcome, turn.Result.Bundle = publish.Created, &provider.Bundle{Unchanged: true}
			return turn
		}, "secretObjects need a provider that returns files"},
		{"no right", func(s *stage, rec volume.Record) Turn {
			s.mu.Lock()
			s.refuse = func(_, path string) int {
				if strings.HasPrefix(path, "/api/v1/namespaces/ns/secrets") {
					return http.StatusForbidden
				}
				return 0
			}
			s.mu.Unlock()
			return s.holding(rec, copying("r", "copy"), "x")
		}, "syncSecrets of the chart grants it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			copies, events := s.copier()
			rec := aVolume("1")
			s.pod(rec)
			copies.Ended(c.turn(s, rec))
			if ev := <-events.backlog; ev.reason != reasonSecretFailed || !strings.Contains(ev.message, c.want) || ev.pod != rec.Pod {
				t.Errorf("event %+v, want %q", ev, c.want)
			}
		})
	}
}

// Neither the log, however loud, nor an event, nor any body but that of the
// Secret itself shows what is copied.
func TestNothingShowsWhatIsCopied(t *testing.T) {
	var log bytes.Buffer
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"logtostderr": "false", "v": "10"} {
		if err := flags.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	klog.SetOutput(&log)
	t.Cleanup(func() {
		klog.Flush()
		_ = flags.Set("logtostderr", "true")
		_ = flags.Set("v", "0")
	})
	s := newStage(t)
	c, events := s.copier()
	canary := rand.Text()
	for i, there := range []object{nil, somebodys(nil, nil, nil), somebodys(object{managedLabel: "true"}, nil, nil)} {
		name := fmt.Sprint("copy-", i)
		if there != nil {
			s.put(secrets+name, there)
		}
		rec := aVolume(name)
		s.pod(rec)
		c.Ended(s.holding(rec, copying("r", name), canary))
	}
	s.holds("copy-0", canary)
	s.holds("copy-2", canary)
	ev := <-events.backlog
	s.put(classes+"c", aClass(nil))
	if _, err := NewClasses(s.client, nil).Class(t.Context(), className); err != nil {
		t.Fatal(err)
	}
	klog.Flush()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !strings.Contains(log.String(), "SecretProviderClass") {
		t.Error("the log has no bodies at all: is it loud enough?")
	}
	encoded := base64.StdEncoding.EncodeToString([]byte(canary))
	for place, text := range map[string]string{"log": log.String(), "event": ev.message, "bodies": strings.Join(s.bodies, "\n")} {
		if strings.Contains(text, canary) || strings.Contains(text, encoded) {
			t.Errorf("the %s shows it", place)
		}
	}
}
