package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
)

// startupTaint keeps pods away from a node whose driver is not ready yet.
const startupTaint = "keymount.io/agent-not-ready"

// RemoveStartupTaint waits until ready returns nil, and then removes the taint
// keymount.io/agent-not-ready, whatever its effect, from the node. It tries
// until it succeeds or ctx ends, and never fails.
func RemoveStartupTaint(ctx context.Context, client *Client, node string, ready func(context.Context) error) error {
	retry(ctx, "Startup taint cannot be removed", func() error {
		if err := ready(ctx); err != nil {
			return err
		}
		return removeTaint(ctx, client, node)
	})
	return nil
}

func removeTaint(ctx context.Context, client *Client, node string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := client.nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node %s: %w", node, err)
	}
	kept := slices.DeleteFunc(slices.Clone(found.Spec.Taints), func(t corev1.Taint) bool { return t.Key == startupTaint })
	if len(kept) == len(found.Spec.Taints) {
		return nil
	}
	type step struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	patch, err := json.Marshal([]step{
		{"test", "/metadata/resourceVersion", found.ResourceVersion}, // nobody else changed taints meanwhile
		{"replace", "/spec/taints", kept},
	})
	if err == nil {
		_, err = client.nodes().Patch(ctx, node, types.JSONPatchType, patch, metav1.PatchOptions{FieldManager: component})
	}
	if err != nil {
		return fmt.Errorf("patch node %s: %w", node, err)
	}
	klog.InfoS("Startup taint is removed", "node", node, "taint", startupTaint)
	return nil
}
