package kube

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/volume"
)

// mirrorAnnotation is on the pod by which the API server knows a static pod of
// kubelet. It has the UID that kubelet uses.
const mirrorAnnotation = corev1.MirrorPodAnnotationKey

// askOwners asks for the owners of the pods that want the Secret: the Secret
// lives as long as one of them. It asks once for each volume, and once more
// where the Secret, which is nil if there is none, lacks them: the owners of a
// pod may have changed, and one that is gone must not own anything.
func (s *Secrets) askOwners(ctx context.Context, key types.NamespacedName, is *corev1.Secret, began time.Time) error {
	for id, pod := range s.ownerless(key, is, began) {
		owners, err := s.ownersOf(ctx, pod)
		if err != nil {
			return err
		}
		s.mu.Lock()
		if c := s.copies[id]; c != nil {
			c.owners, c.asked = owners, time.Now()
		}
		s.mu.Unlock()
	}
	return nil
}

// ownerless returns the pods to ask for.
func (s *Secrets) ownerless(key types.NamespacedName, is *corev1.Secret, began time.Time) map[volume.ID]provider.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	pods := make(map[volume.ID]provider.Pod)
	for id, c := range s.copies {
		lacking := is == nil || len(withOwners(is.OwnerReferences, c.owners)) > len(is.OwnerReferences)
		if c.wants(key) && (c.asked.IsZero() || lacking && c.asked.Before(began)) {
			pods[id] = c.pod
		}
	}
	return pods
}

// ownersOf returns who owns the Secrets of a pod: what owns the pod, or the
// pod itself. A pod that has gone, or is going, owns nothing.
func (s *Secrets) ownersOf(ctx context.Context, pod provider.Pod) ([]metav1.OwnerReference, error) {
	is, err := s.client.pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("get pod %s/%s, whose owners own the Secret: %w", pod.Namespace, pod.Name, mayNot(err))
	case string(is.UID) != pod.UID && is.Annotations[mirrorAnnotation] != pod.UID, is.DeletionTimestamp != nil:
		return nil, nil
	}
	var owners []metav1.OwnerReference
	for _, o := range is.OwnerReferences {
		if o.Kind != "Node" { // of a static pod; it would keep the Secret for ever
			owners = append(owners, metav1.OwnerReference{APIVersion: o.APIVersion, Kind: o.Kind, Name: o.Name, UID: o.UID})
		}
	}
	if len(owners) == 0 {
		owners = append(owners, metav1.OwnerReference{APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Pod", Name: is.Name, UID: is.UID})
	}
	return owners, nil
}

// mayNot adds to the answer to a read that it is a right that is missing.
func mayNot(err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("%w; the driver's account may not: syncSecrets of the chart grants it", err)
	}
	return err
}
