package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/volume"
)

// nodeLabel names the node of a status object, as the upstream driver does.
const nodeLabel = "internal.secrets-store.csi.k8s.io/node-name"

// pageSize is how many objects one answer to a list has.
const pageSize = 500

// list reads the status objects of this node. One counts as a volume's if it
// has a name that the volume's may have and tells of its pod and its target:
// others than the driver may write objects, too.
func (s *Statuses) list(ctx context.Context) error {
	type key struct{ namespace, name, target string } // volumes may share a name
	expected := make(map[key]volume.Record)
	for _, rec := range s.volumes.List() {
		for _, name := range names(rec) {
			expected[key{rec.Pod.Namespace, name, rec.Target}] = rec
		}
	}
	opts := metav1.ListOptions{LabelSelector: nodeLabel + "=" + s.label(), Limit: pageSize}
	for {
		page, err := s.listPage(ctx, opts)
		if err != nil {
			return explained(err)
		}
		for i := range page.Items {
			object := &page.Items[i]
			rec, ok := expected[key{object.Namespace, object.Name, object.Status.TargetPath}]
			if ok && owns(rec.Pod, object) {
				s.recall(rec.ID, object)
			}
		}
		if opts.Continue = page.Continue; opts.Continue == "" {
			return nil
		}
	}
}

func (s *Statuses) listPage(ctx context.Context, opts metav1.ListOptions) (*SecretProviderClassPodStatusList, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.client.statuses("").List(ctx, opts)
}

// recall notes what is written of a volume.
func (s *Statuses) recall(id volume.ID, object *SecretProviderClassPodStatus) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.of(id)
	st.name, st.applied = object.Name, object.Status
	st.applied.Conditions = slices.DeleteFunc(st.applied.Conditions, func(c metav1.Condition) bool {
		return c.Type != conditionReady && c.Type != conditionStale
	})
	if !st.synced {
		st.secrets = object.Status.Secrets
	}
	if st.generation == 0 {
		st.generation = object.Status.ClassGeneration
	}
}

// label is the value of nodeLabel.
func (s *Statuses) label() string { return fit(s.node, validation.LabelValueMaxLength) }

// names returns those that the object of a volume may have, the usual one of
// which, as the upstream driver makes it, others may need as well.
func names(rec volume.Record) []string {
	usual := rec.Pod.Name + "-" + rec.Pod.Namespace + "-" + rec.Class.Name
	own := distinct(usual, validation.DNS1123SubdomainMaxLength, string(rec.ID))
	if len(usual) > validation.DNS1123SubdomainMaxLength {
		return []string{own}
	}
	return []string{usual, own}
}

// apply writes the status of a volume, by server-side apply, and returns the
// name of the object: the one it has, or the first of two that is free.
//
// Each volume applies as a field manager of its own and at first without
// force, so that it is the API server who tells when the object is another's.
func (s *Statuses) apply(ctx context.Context, rec volume.Record, name string, next PodStatus) (string, error) {
	candidates := names(rec)
	if i := slices.Index(candidates, name); i > 0 {
		candidates = candidates[i:]
	}
	for _, name := range candidates {
		switch mine, err := s.applyAs(ctx, rec, name, next); {
		case err != nil:
			return "", explained(err)
		case mine:
			return name, nil
		}
	}
	return "", fmt.Errorf("status objects %s of namespace %s are those of other volumes", strings.Join(candidates, " and "), rec.Pod.Namespace)
}

// applyAs writes an object unless it is another volume's.
func (s *Statuses) applyAs(ctx context.Context, rec volume.Record, name string, next PodStatus) (mine bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = s.patch(ctx, rec, name, next, false)
	if !apierrors.IsConflict(err) {
		return err == nil, err
	}
	statuses := s.client.statuses(rec.Pod.Namespace)
	object, err := statuses.Get(ctx, name, metav1.GetOptions{})
	switch {
	case err != nil:
		return false, err
	case !isOf(object, rec):
		return false, nil
	}
	return true, s.patch(ctx, rec, name, next, true)
}

// isOf reports whether the object is the volume's to write: it tells of the
// volume already, or of a volume of an earlier pod with the same name. The
// driver of that pod, if it comes to write once more, sees that it is earlier.
func isOf(object *SecretProviderClassPodStatus, rec volume.Record) bool {
	is := object.Status
	ready := meta.FindStatusCondition(is.Conditions, conditionReady)
	later := ready != nil && ready.LastTransitionTime.After(rec.Published)
	switch {
	case is.TargetPath == rec.Target, is.PodName == "":
		return true
	case is.PodName != rec.Pod.Name, is.SecretProviderClassName != rec.Class.Name:
		return false
	default:
		return !owns(rec.Pod, object) && !later
	}
}

// owns reports whether the object goes with the pod.
func owns(pod provider.Pod, object *SecretProviderClassPodStatus) bool {
	return slices.ContainsFunc(object.OwnerReferences, func(o metav1.OwnerReference) bool { return string(o.UID) == pod.UID })
}

// patch applies the status. By force it takes over an object that another has
// written, of which nothing is to stay, so that it writes what is empty, too.
// Owners stay; Kubernetes removes them with their pods.
func (s *Statuses) patch(ctx context.Context, rec volume.Record, name string, next PodStatus, force bool) error {
	object := &SecretProviderClassPodStatus{
		TypeMeta: metav1.TypeMeta{APIVersion: groupVersion.String(), Kind: "SecretProviderClassPodStatus"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: rec.Pod.Namespace,
			Labels: map[string]string{nodeLabel: s.label()},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Pod", Name: rec.Pod.Name, UID: types.UID(rec.Pod.UID),
			}},
		},
		Status: next,
	}
	content, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
	if err != nil {
		return fmt.Errorf("encode the status of volume %s: %w", rec.ID, err)
	}
	all := map[string]any{"objects": []any{}} // which every driver writes
	if force {
		all["secrets"], all["classGeneration"] = []any{}, 0
	}
	if status, ok := content["status"].(map[string]any); ok {
		maps.Copy(all, status)
	}
	content["status"] = all
	data, err := json.Marshal(content)
	if err != nil {
		return fmt.Errorf("encode the status of volume %s: %w", rec.ID, err)
	}
	_, err = s.client.statuses(rec.Pod.Namespace).Patch(ctx, name, types.ApplyPatchType, data,
		metav1.PatchOptions{FieldManager: distinct("keymount", validation.DNS1123LabelMaxLength, string(rec.ID)), Force: &force})
	return err
}

// explained returns the error with what to do about it, where that is known.
func explained(err error) error {
	switch {
	case apierrors.IsNotFound(err) && apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
		return fmt.Errorf("the API server knows no SecretProviderClassPodStatuses, install the CRDs: %w", err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("check the ClusterRole of the driver's service account: %w", err)
	default:
		return err
	}
}

// fit returns the name if it is short enough, else one that is as distinct.
func fit(name string, limit int) string {
	if len(name) <= limit {
		return name
	}
	return distinct(name, limit, name)
}

// distinct returns a name of at most limit bytes: the beginning of name, and
// ten characters that stand for the text of.
func distinct(name string, limit int, of string) string {
	sum := sha256.Sum256([]byte(of))
	tail := "-" + hex.EncodeToString(sum[:5])
	return strings.TrimRight(name[:min(len(name), limit-len(tail))], "-._") + tail
}
