package kube

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/keymount/keymount/pkg/volume"
)

// nodeLabel names the node of a status object, as the upstream driver does.
const nodeLabel = "internal.secrets-store.csi.k8s.io/node-name"

// pageSize is how many objects one answer to a list has.
const pageSize = 500

// list reads the status objects of this node.
func (s *Statuses) list(ctx context.Context) error {
	targets := make(map[string]volume.ID)
	for _, rec := range s.volumes.List() {
		targets[rec.Target] = rec.ID
	}
	opts := metav1.ListOptions{LabelSelector: nodeLabel + "=" + s.label(), Limit: pageSize}
	for {
		page, err := s.listPage(ctx, opts)
		if err != nil {
			return err
		}
		for i := range page.Items {
			if id, ok := targets[page.Items[i].Status.TargetPath]; ok {
				s.recall(id, &page.Items[i])
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
	st := s.known[id]
	if st == nil {
		st = &status{}
		s.known[id] = st
	}
	st.name, st.applied, st.secrets = object.Name, object.Status, object.Status.Secrets
	if st.generation == 0 {
		st.generation = object.Status.ClassGeneration
	}
}

// label is the value of nodeLabel.
func (s *Statuses) label() string { return fit(s.node, validation.LabelValueMaxLength) }

// apply writes the status of a volume, by server-side apply, and returns the
// name of the object: the one it has, or the first of two that is free.
//
// Each volume applies as a field manager of its own and at first without
// force, so that it is the API server who tells when the object is another's.
func (s *Statuses) apply(ctx context.Context, rec volume.Record, name string, next PodStatus) (string, error) {
	usual := rec.Pod.Name + "-" + rec.Pod.Namespace + "-" + rec.Class.Name
	own := distinct(usual, validation.DNS1123SubdomainMaxLength, string(rec.ID))
	candidates := []string{usual, own}
	switch {
	case name != "":
		candidates = []string{name, own}
	case len(usual) > validation.DNS1123SubdomainMaxLength:
		candidates = []string{own}
	}
	for _, name := range slices.Compact(candidates) {
		switch mine, err := s.applyAs(ctx, rec, name, next); {
		case err != nil:
			return "", err
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
// volume already, or of a volume of an earlier pod with the same name.
func isOf(object *SecretProviderClassPodStatus, rec volume.Record) bool {
	is := object.Status
	ofPod := slices.ContainsFunc(object.OwnerReferences, func(o metav1.OwnerReference) bool { return string(o.UID) == rec.Pod.UID })
	switch {
	case is.TargetPath == rec.Target, is.PodName == "":
		return true
	default:
		return is.PodName == rec.Pod.Name && is.SecretProviderClassName == rec.Class.Name && !ofPod
	}
}

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
	data, err := json.Marshal(object)
	if err != nil {
		return fmt.Errorf("encode the status of volume %s: %w", rec.ID, err)
	}
	_, err = s.client.statuses(rec.Pod.Namespace).Patch(ctx, name, types.ApplyPatchType, data,
		metav1.PatchOptions{FieldManager: distinct("keymount", validation.DNS1123LabelMaxLength, string(rec.ID)), Force: &force})
	return err
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
