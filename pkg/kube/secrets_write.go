package kube

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/kube/secretobject"
)

const (
	// attempts is how often a write is tried at once that others overtake.
	attempts = 5
	// writeTimeout bounds all calls about one Secret; there may be one for each
	// pod of the node.
	writeTimeout = time.Minute
	// deletionGrace is how long a Secret may take to go before pods are told.
	deletionGrace = time.Minute
)

// write brings one Secret up to date.
func (s *Secrets) write(ctx context.Context, key types.NamespacedName) error {
	limited, cancel := context.WithTimeout(quiet(ctx), writeTimeout)
	defer cancel()
	began := time.Now()
	var err error
	for range attempts {
		err = s.try(limited, key, began)
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsNotFound(err) {
			break
		} // else somebody was faster
	}
	if err != nil && ctx.Err() == nil {
		err = s.failed(key, err)
	}
	return err
}

// quiet keeps the client from logging bodies, which it does with -v=8.
func quiet(ctx context.Context) context.Context {
	return klog.NewContext(ctx, klog.New(nil))
}

// try reads the Secret, and writes it once at most.
func (s *Secrets) try(ctx context.Context, key types.NamespacedName, began time.Time) error {
	if !slices.Contains(s.keys(), key) {
		return nil // the volumes have gone
	}
	is, err := s.read(ctx, key)
	if err != nil {
		return err
	}
	holder := s.holder(key, is)
	if is != nil && s.isDropped(key, holder) {
		return s.remove(ctx, key, is)
	}
	if err := s.askOwners(ctx, key, is, began); err != nil {
		return err
	}
	s.build(key, holder)
	w := s.wish(key, holder)
	switch {
	case w == nil && is != nil:
		s.forget(key, holder) // who may have dropped it just now, and removes it next
		return nil
	case w == nil || is == nil && w.secret == nil:
		s.forget(key, "")
		return nil
	}
	next, err := w.next(key, is)
	switch {
	case err != nil:
	case next == nil:
	case is == nil:
		_, err = s.client.secrets(key.Namespace).Create(ctx, next, metav1.CreateOptions{FieldManager: component})
	default:
		_, err = s.client.secrets(key.Namespace).Update(ctx, next, metav1.UpdateOptions{FieldManager: component})
	}
	if err != nil {
		return w.discreet(err)
	}
	s.settled(key, w)
	return nil
}

// read returns the Secret, nil if there is none. One that is not the driver's
// to write is an error.
func (s *Secrets) read(ctx context.Context, key types.NamespacedName) (*corev1.Secret, error) {
	is, err := s.client.secrets(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, mayNot(err)
	case is.DeletionTimestamp != nil && time.Since(is.DeletionTimestamp.Time) > deletionGrace:
		return nil, &errNotOurs{fmt.Sprintf("it is being deleted since %s, and its finalizers keep it; it is made anew once it has gone", is.DeletionTimestamp.UTC().Format(time.RFC3339))}
	case is.DeletionTimestamp != nil:
		return nil, errors.New("it is being deleted; it will be made anew")
	case is.Labels[managedLabel] != "true":
		s.forget(key, "")
		return nil, &errNotOurs{"it exists and is not the driver's (it has no label " + managedLabel + "=true): choose another secretName, or delete it"}
	default:
		return is, nil
	}
}

// holder returns the class whose Secret it is, or is going to be: one that
// wrote it before, or the first of those that want it.
func (s *Secrets) holder(key types.NamespacedName, is *corev1.Secret) string {
	if is != nil && is.Annotations[classAnnotation] != "" {
		return is.Annotations[classAnnotation]
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	first := ""
	for _, c := range s.copies {
		switch name := c.class.String(); {
		case !c.wants(key):
		case c.written[key.Name]:
			return name
		case first == "" || name < first:
			first = name
		}
	}
	return first
}

// build makes the content of the Secret from what was fetched last, of all
// volumes of the class that share it.
func (s *Secrets) build(key types.NamespacedName, holder string) {
	for {
		s.mu.Lock()
		c, todo := s.newest(key, holder)
		s.mu.Unlock()
		if todo == nil || todo.made != nil {
			return
		}
		made, err := secretobject.New(todo.object, todo.files)
		s.mu.Lock()
		todo.files = nil
		if err != nil {
			todo.failed = true
			s.complain(c, key.Name, err.Error())
		} else {
			todo.made = &made
		}
		s.mu.Unlock()
	}
}

// newest returns the volume with the latest content that can be made, as far
// as that is known, or nil. It needs Secrets.mu.
func (s *Secrets) newest(key types.NamespacedName, holder string) (newest *copies, content *copied) {
	for _, c := range s.copies {
		if !c.wants(key) || c.class.String() != holder || len(c.owners) == 0 || c.wanted[key.Name].failed {
			continue
		}
		if newest == nil || c.asOf.After(newest.asOf) {
			newest, content = c, c.wanted[key.Name]
		}
	}
	return newest, content
}

// wish returns what the Secret should be, nil if no volume of the class wants
// it. Volumes of other classes cannot have it.
func (s *Secrets) wish(key types.NamespacedName, holder string) *wish {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := &wish{class: holder}
	for _, id := range slices.Sorted(maps.Keys(s.copies)) {
		switch c := s.copies[id]; {
		case !c.wants(key):
		case c.class.String() != holder:
			s.complain(c, key.Name, fmt.Sprintf("secret %s: it is that of class %s: choose another secretName", key.Name, holder))
		case len(c.owners) > 0:
			w.volumes = append(w.volumes, id)
			w.owners = withOwners(w.owners, c.owners)
		}
	}
	if len(w.volumes) == 0 {
		return nil
	}
	if c, content := s.newest(key, holder); content != nil {
		w.secret, w.asOf = content.made, c.asOf
	}
	return w
}

// settled notes that the Secret is what it should be.
func (s *Secrets) settled(key types.NamespacedName, w *wish) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range w.volumes {
		c := s.copies[id]
		if c == nil {
			continue
		}
		if !c.written[key.Name] {
			c.written[key.Name] = true
			s.tellStatus(id, c)
		}
		if w.secret != nil {
			delete(c.told, key.Name)
		}
		s.drop(c) // the class may have changed meanwhile
	}
}

// failed tells the pods why, and returns the error if trying again may help.
// Nobody is told that the API server does not answer: it would not take an
// event either.
func (s *Secrets) failed(key types.NamespacedName, err error) error {
	var final *errNotOurs
	var status apierrors.APIStatus
	isFinal := errors.As(err, &final) || apierrors.IsInvalid(err)
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case !isFinal && !errors.As(err, &status):
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.copies {
		if c.wants(key) {
			s.complain(c, key.Name, fmt.Sprintf("secret %s: %v", key.Name, err))
		}
	}
	if isFinal {
		return nil // until the next recheck
	}
	return err
}

// isDropped reports whether the class has the Secret, and no longer wants it.
func (s *Secrets) isDropped(key types.NamespacedName, holder string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range s.dropped[key] {
		if name.String() == holder {
			return !s.isWanted(key, name)
		}
	}
	return false
}

// isWanted reports whether a volume of the class wants the Secret. It needs
// Secrets.mu.
func (s *Secrets) isWanted(key types.NamespacedName, name class.Name) bool {
	for _, c := range s.copies {
		if c.wants(key) && c.class == name {
			return true
		}
	}
	return false
}

// remove deletes a Secret that its class no longer asks for, unless somebody
// has changed it meanwhile. Another class may have the name then.
func (s *Secrets) remove(ctx context.Context, key types.NamespacedName, is *corev1.Secret) error {
	err := s.client.secrets(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &is.UID, ResourceVersion: &is.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	s.forget(key, "")
	s.queue.Add(key)
	return nil
}

// forget notes that classes that dropped the Secret do not have it any more,
// except for its holder.
func (s *Secrets) forget(key types.NamespacedName, holder string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range slices.Clone(s.dropped[key]) {
		if name.String() == holder || s.isWanted(key, name) {
			continue // by a volume that has not heard of the change yet
		}
		s.undrop(key, name)
		for id, c := range s.copies {
			if c.class == name && c.pod.Namespace == key.Namespace && c.written[key.Name] {
				delete(c.written, key.Name)
				s.tellStatus(id, c)
			}
		}
	}
}
