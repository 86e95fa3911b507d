package kube

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
)

var className = class.Name{Namespace: "ns", Name: "c"}

// follow runs Changes until the test ends, and passes on what it tells.
func (s *stage) follow(c *Classes) <-chan class.Name {
	changed := make(chan class.Name, 100)
	s.run(func(done <-chan struct{}) error {
		ctx, cancel := context.WithCancel(context.Background())
		go func() { <-done; cancel() }()
		return c.Changes(ctx, func(name class.Name) { changed <- name })
	})
	return changed
}

func TestAClassIsReadAsItsAuthorWroteIt(t *testing.T) {
	s := newStage(t)
	s.put(classes+"c", aClass(map[string]string{"objects": "[]"}, object{
		"secretName": "copy", "type": "Opaque", "labels": object{"l": "1"}, "annotations": object{"a": "1"},
		"data": []object{{"objectName": "f", "key": "k"}},
	}))
	got, err := NewClasses(s.client, nil).Class(t.Context(), className)
	want := &class.Class{
		Name: className, Generation: 3, Provider: "file", Parameters: map[string]string{"objects": "[]"},
		SecretObjects: []class.SecretObject{{
			SecretName: "copy", Type: "Opaque", Labels: map[string]string{"l": "1"}, Annotations: map[string]string{"a": "1"},
			Data: []class.SecretData{{ObjectName: "f", Key: "k"}},
		}},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreFields(class.Class{}, "Revision")); err != nil || diff != "" {
		t.Errorf("Class: %v (-want +got):\n%s", err, diff)
	}
}

func TestAnAnswerWithoutAClassSaysWhy(t *testing.T) {
	for _, c := range []struct {
		name   string
		object object
		refuse int
		is     error
		words  string
	}{
		{"there is none", nil, 0, class.ErrNotFound, "create it in the pod's namespace"},
		{"its provider is missing", object{"apiVersion": groupVersion.String(), "kind": "SecretProviderClass", "spec": object{}}, 0, class.ErrInvalid, "spec.provider is missing"},
		{"the driver may not", nil, http.StatusForbidden, provider.ErrUnavailable, "check its ClusterRole"},
		{"the server is not well", nil, http.StatusInternalServerError, provider.ErrUnavailable, "ask the API server"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			s.refuse = func(string, string) int { return c.refuse }
			if c.object != nil {
				s.put(classes+"c", c.object)
			}
			found, err := NewClasses(s.client, nil).Class(t.Context(), className)
			if found != nil || !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.words) {
				t.Errorf("Class = %v, %v; want %v with %q", found, err, c.is, c.words)
			}
		})
	}
}

func TestManyPodsOfAClassAskOnce(t *testing.T) {
	s := newStage(t)
	s.put(classes+"c", aClass(nil))
	release := make(chan struct{})
	s.refuse = func(string, string) int {
		s.mu.Unlock()
		<-release
		s.mu.Lock()
		return 0
	}
	c := NewClasses(s.client, nil)
	answers := make(chan error, 50)
	for range 50 {
		go func() {
			_, err := c.Class(context.Background(), className)
			answers <- err
		}()
	}
	s.eventually("one request", func() bool { return len(s.requests("GET")) > 0 })
	close(release)
	for range 50 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
	if got := len(s.requests("GET")); got > 5 { // some may have come after the first had its answer
		t.Errorf("%d requests for 50 calls", got)
	}
}

func TestAClassInUseIsWatchedUntilItsLastVolumeIsGone(t *testing.T) {
	s := newStage(t)
	s.put(classes+"c", aClass(map[string]string{"v": "1"}))
	c := NewClasses(s.client, nil)
	changed := s.follow(c)
	for _, id := range []string{"1", "2"} {
		found, err := c.Class(t.Context(), className)
		if err != nil {
			t.Fatal(err)
		}
		rec := aVolume(id)
		rec.Revision = found.Revision
		c.Ended(s.publish(rec, publish.Created))
	}
	s.eventually("a watch", func() bool { return len(s.requests("WATCH")) > 0 })
	s.eventually("the class is known", func() bool { _, ok := c.watched(className); return ok })
	asked := len(s.requests("GET " + classes + "c"))

	s.put(classes+"c", aClass(map[string]string{"v": "2"}))
	if name := <-changed; name != className {
		t.Errorf("changed: %v", name)
	}
	s.put(classes+"c", aClass(map[string]string{"v": "2"})) // its metadata may change
	s.eventually("the new class is known", func() bool {
		found, err := c.Class(t.Context(), className)
		return err == nil && found.Parameters["v"] == "2"
	})
	if got := len(s.requests("GET " + classes + "c")); got != asked {
		t.Errorf("a watched class was asked for %d times", got-asked)
	}
	c.Gone("1")
	if _, ok := c.watched(className); !ok {
		t.Error("the watch ended with the first volume")
	}
	c.Gone("2")
	if _, ok := c.watched(className); ok {
		t.Error("the watch outlives the last volume")
	}
	if len(changed) > 0 {
		t.Errorf("told of %d changes that are none", len(changed))
	}
}

func TestAClassThatGoesAndComesIsTold(t *testing.T) {
	s := newStage(t)
	s.put(classes+"c", aClass(nil))
	rec := aVolume("1")
	found, err := NewClasses(s.client, nil).Class(t.Context(), className)
	if err != nil {
		t.Fatal(err)
	}
	rec.Revision = found.Revision
	s.publish(rec, publish.Created)
	c := NewClasses(s.client, s.volumes.List()) // as after a restart
	changed := s.follow(c)
	s.eventually("the class is known", func() bool { _, ok := c.watched(className); return ok })
	s.remove(classes + "c")
	<-changed
	if _, err := c.Class(t.Context(), className); !errors.Is(err, class.ErrNotFound) {
		t.Errorf("Class = %v, want that it is not found", err)
	}
	s.put(classes+"c", object{"apiVersion": groupVersion.String(), "kind": "SecretProviderClass", "spec": object{"provider": "no name"}})
	<-changed
	if _, err := c.Class(t.Context(), className); !errors.Is(err, class.ErrInvalid) {
		t.Errorf("Class = %v, want that it is invalid", err)
	}
	s.put(classes+"c", aClass(nil))
	<-changed
	if _, err := c.Class(t.Context(), className); err != nil {
		t.Error(err)
	}
}

func TestAWatchedClassOutlivesTheAPIServer(t *testing.T) {
	s := newStage(t)
	s.put(classes+"c", aClass(nil))
	c := NewClasses(s.client, nil)
	s.follow(c)
	c.Ended(s.publish(aVolume("1"), publish.Created))
	s.eventually("the class is known", func() bool { _, ok := c.watched(className); return ok })
	s.mu.Lock()
	s.refuse = func(string, string) int { return http.StatusServiceUnavailable }
	s.mu.Unlock()
	if _, err := c.Class(t.Context(), className); err != nil {
		t.Errorf("Class while the API server is away: %v", err)
	}
}
