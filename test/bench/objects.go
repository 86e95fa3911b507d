package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"
)

const (
	group   = "/apis/secrets-store.csi.x-k8s.io/v1/namespaces/"
	classes = "/secretproviderclasses"
	states  = "/secretproviderclasspodstatuses"
)

// install adds the custom resources of both drivers, whose groups and names are the same.
func (c *cluster) install(ctx context.Context, manifest string) error {
	text, err := os.ReadFile(manifest)
	if err != nil {
		return err
	}
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		if !strings.Contains(document, "\nkind: ") {
			continue
		}
		if _, err := c.send(ctx, http.MethodPost, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", "application/yaml", []byte(document)); err != nil {
			return err
		}
	}
	for _, path := range []string{group + "default" + classes, group + "default" + states} {
		for deadline := time.Now().Add(patience); ; {
			_, err := c.call(ctx, http.MethodGet, path, nil)
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				return err
			}
			if err := sleep(ctx, 100*time.Millisecond); err != nil {
				return err
			}
		}
	}
	return nil
}

type object = map[string]any

func (c *cluster) makeNamespace(ctx context.Context, name string) error {
	_, err := c.call(ctx, http.MethodPost, "/api/v1/namespaces", object{"metadata": object{"name": name}})
	return err
}

// makeClass adds a class that has what classes usually have.
func (c *cluster) makeClass(ctx context.Context, namespace, name string, parameters map[string]string) error {
	_, err := c.call(ctx, http.MethodPost, group+namespace+classes, object{
		"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass", "metadata": object{"name": name},
		"spec": object{"provider": providerName, "parameters": parameters},
	})
	return err
}

// makePod adds a pod that is bound to a node, as one that uses the volume.
func (c *cluster) makePod(ctx context.Context, v *volume, node string) error {
	_, err := c.call(ctx, http.MethodPost, "/api/v1/namespaces/"+v.namespace+"/pods", object{
		"metadata": object{"name": v.pod, "labels": object{"app": "web", "team": "bench"}},
		"spec": object{
			"nodeName": node, "serviceAccountName": v.account, "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 0,
			"containers": []any{object{
				"name": "web", "image": "registry.example/web:1", "args": []string{"--listen=:8080"},
				"env":          []any{object{"name": "MODE", "value": "production"}, object{"name": "CONFIG", "value": "/secrets/config"}},
				"resources":    object{"requests": object{"cpu": "10m", "memory": "32Mi"}},
				"volumeMounts": []any{object{"name": "secrets", "mountPath": "/secrets", "readOnly": true}},
			}},
			"volumes": []any{object{"name": "secrets", "csi": object{
				"driver": "secrets-store.csi.k8s.io", "readOnly": true, "volumeAttributes": object{"secretProviderClass": v.class},
			}}},
		},
	})
	return err
}

// forget removes what pods that have ended leave, as the garbage collector of
// a cluster does.
func (c *cluster) forget(ctx context.Context, namespace string) error {
	for _, path := range []string{group + namespace + states, "/api/v1/namespaces/" + namespace + "/pods?gracePeriodSeconds=0"} {
		if _, err := c.call(ctx, http.MethodDelete, path, nil); err != nil {
			return fmt.Errorf("forget pods: %w", err)
		}
	}
	return nil
}
