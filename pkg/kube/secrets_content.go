package kube

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keymount/keymount/pkg/kube/secretobject"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/volume"
)

const (
	// managedLabel is on every Secret that is ours, and on those of the
	// upstream driver. One without it is never touched.
	managedLabel = "secrets-store.csi.k8s.io/managed"
	// classAnnotation names the class of whose volumes a Secret has copies, and
	// asOfAnnotation when the store last had that content, as far as its
	// writer knew.
	classAnnotation = "keymount.io/class"
	asOfAnnotation  = "keymount.io/as-of"
	// maxSkew is how far clocks of nodes may differ.
	maxSkew = 5 * time.Minute
	// minQuote is the length from which on a value is looked for in what an API
	// server says: shorter ones are in every text.
	minQuote = 4
)

// errNotOurs is why a Secret is left as it is, until somebody does something
// about it; trying again at once is of no use.
type errNotOurs struct{ reason string }

func (e *errNotOurs) Error() string { return e.reason }

// A wish is what a Secret should be: the content of the volume that was
// fetched last, owned by the pods of all volumes of this node that share it.
type wish struct {
	class   string
	volumes []volume.ID
	owners  []metav1.OwnerReference
	asOf    time.Time
	secret  *secretobject.Secret // nil if it cannot be made
}

// next returns what to make of the Secret, which is nil if there is none; nil
// if that is nothing.
func (w *wish) next(key types.NamespacedName, is *corev1.Secret) (*corev1.Secret, error) {
	if is != nil {
		return w.update(is)
	}
	if w.secret == nil {
		return nil, nil
	}
	next := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: key.Name, Namespace: key.Namespace, OwnerReferences: w.owners},
		Type:       corev1.SecretType(w.secret.Type),
	}
	w.fill(next)
	return next, nil
}

// update returns what to make of a Secret that exists, and is of the class;
// nil if that is nothing.
func (w *wish) update(is *corev1.Secret) (*corev1.Secret, error) {
	next := is.DeepCopy()
	next.OwnerReferences = withOwners(next.OwnerReferences, w.owners)
	switch {
	case w.secret == nil || !w.isNewer(is) || w.matches(is):
		if len(next.OwnerReferences) == len(is.OwnerReferences) {
			return nil, nil
		}
		return next, nil
	case string(is.Type) != w.secret.Type:
		return nil, &errNotOurs{fmt.Sprintf("it is of type %s, which cannot be changed to %s: delete it, and it is made anew", is.Type, w.secret.Type)}
	case is.Immutable != nil && *is.Immutable:
		return nil, &errNotOurs{"it is immutable: delete it, and it is made anew"}
	}
	w.fill(next)
	return next, nil
}

// fill sets content, labels and annotations; others that it has stay.
func (w *wish) fill(next *corev1.Secret) {
	if next.Labels == nil {
		next.Labels = make(map[string]string)
	}
	if next.Annotations == nil {
		next.Annotations = make(map[string]string)
	}
	maps.Copy(next.Labels, w.labels())
	maps.Copy(next.Annotations, w.annotations())
	next.Annotations[asOfAnnotation] = w.asOf.UTC().Format(time.RFC3339Nano)
	next.Data = make(map[string][]byte, len(w.secret.Data))
	for name, value := range w.secret.Data {
		next.Data[name] = value.Reveal()
	}
}

// labels returns those of the class and ours, which win.
func (w *wish) labels() map[string]string {
	all := map[string]string{}
	maps.Copy(all, w.secret.Labels)
	all[managedLabel] = "true"
	return all
}

// annotations returns those of the class and ours, which win, but not the time.
func (w *wish) annotations() map[string]string {
	all := map[string]string{}
	maps.Copy(all, w.secret.Annotations)
	all[classAnnotation] = w.class
	delete(all, asOfAnnotation)
	return all
}

// isNewer reports whether the content of w is at least as new as that of the
// Secret, which another node may have written. A time in the future says
// nothing: a clock was wrong, or somebody edited it.
func (w *wish) isNewer(is *corev1.Secret) bool {
	written, err := time.Parse(time.RFC3339Nano, is.Annotations[asOfAnnotation])
	return err != nil || !w.asOf.Before(written) || written.After(time.Now().Add(maxSkew))
}

// matches reports whether the Secret has the content, and the labels and
// annotations of the class.
func (w *wish) matches(is *corev1.Secret) bool {
	for name, value := range w.secret.Data {
		if has, ok := is.Data[name]; !ok || !value.Equal(secret.New(has)) {
			return false
		}
	}
	return len(is.Data) == len(w.secret.Data) && string(is.Type) == w.secret.Type &&
		includes(is.Labels, w.labels()) && includes(is.Annotations, w.annotations())
}

// discreet returns err, or less of it where it quotes the content: policies of
// a cluster see the Secret, and may say what they like.
func (w *wish) discreet(err error) error {
	if err == nil || w.secret == nil {
		return err
	}
	text := err.Error()
	for _, value := range w.secret.Data {
		plain := strings.TrimSpace(string(value.Reveal()))
		if len(plain) >= minQuote && (strings.Contains(text, plain) || strings.Contains(text, base64.StdEncoding.EncodeToString(value.Reveal()))) {
			return &errNotOurs{fmt.Sprintf("the API server refuses it (%s), in words that quote its content and are not shown", apierrors.ReasonForError(err))}
		}
	}
	return err
}

func includes(all, some map[string]string) bool {
	for name, value := range some {
		if has, ok := all[name]; !ok || has != value {
			return false
		}
	}
	return true
}

// withOwners returns the owners with those of more that are not among them.
func withOwners(owners, more []metav1.OwnerReference) []metav1.OwnerReference {
	all := slices.Clone(owners)
	for _, o := range more {
		if !slices.ContainsFunc(all, func(has metav1.OwnerReference) bool { return has.UID == o.UID }) {
			all = append(all, o)
		}
	}
	return all
}
