package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/klog/v2"
)

// startupTaint keeps pods away from a node whose driver is not ready yet.
const startupTaint = "keymount.io/agent-not-ready"

// readyPoll is how often the driver is asked whether it is ready: pods wait.
const readyPoll = time.Second

// RemoveStartupTaint waits until ready returns nil, and then removes the taint
// keymount.io/agent-not-ready, whatever its effect, from the node. It tries
// until it succeeds or ctx ends, and never fails.
func RemoveStartupTaint(ctx context.Context, client *Client, node string, ready func(context.Context) error) error {
	told := false
	err := wait.PollUntilContextCancel(ctx, readyPoll, true, func(ctx context.Context) (bool, error) {
		err := ready(ctx)
		if err != nil && !told {
			told = true
			klog.InfoS("Startup taint stays until the driver is ready", "node", node, "reason", err)
		}
		return err == nil, nil
	})
	if err == nil {
		retry(ctx, "Startup taint cannot be removed", func() error { return removeTaint(ctx, client, node) })
	}
	return nil
}

func removeTaint(ctx context.Context, client *Client, node string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := client.nodes().Get(ctx, node, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("get node %s: %w", node, withRight(err))
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
		return fmt.Errorf("patch node %s: %w", node, withRight(err))
	}
	klog.InfoS("Startup taint is removed", "node", node, "taint", startupTaint)
	return nil
}

// withRight adds to an answer which right is missing.
func withRight(err error) error {
	if apierrors.IsForbidden(err) {
		return fmt.Errorf("startupTaint.remove of the chart grants it: %w", err)
	}
	return err
}
