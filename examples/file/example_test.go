// Package file_test runs the example as it is written.
package file_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/file"
)

// manifest is what the test needs of the class and the pod.
type manifest struct {
	APIVersion string `json:"apiVersion"`
	Metadata   struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec struct {
		Provider           string            `json:"provider"`
		Parameters         map[string]string `json:"parameters"`
		ServiceAccountName string            `json:"serviceAccountName"`
		Volumes            []struct {
			CSI struct {
				Driver           string            `json:"driver"`
				VolumeAttributes map[string]string `json:"volumeAttributes"`
			} `json:"csi"`
		} `json:"volumes"`
	} `json:"spec"`
}

func read(t *testing.T, name string) manifest {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var m manifest
	if err := yaml.Unmarshal(text, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// fetch asks for what the manifests say, on behalf of a service account.
func fetch(t *testing.T, account string) (*provider.Bundle, error) {
	t.Helper()
	class, pod := read(t, "secretproviderclass.yaml"), read(t, "pod.yaml")
	store, err := file.New(&file.Options{Root: "store"})
	if err != nil {
		t.Fatal(err)
	}
	return store.Fetch(t.Context(), &provider.Request{
		Parameters: class.Spec.Parameters,
		Pod:        provider.Pod{Namespace: pod.Metadata.Namespace, Name: pod.Metadata.Name, ServiceAccount: account},
		Mode:       0o644,
	})
}

func TestTheExampleGivesTheExpectedFiles(t *testing.T) {
	bundle, err := fetch(t, read(t, "pod.yaml").Spec.ServiceAccountName)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, f := range bundle.Files {
		lines = append(lines, fmt.Sprintf("%s %04o %d\n", f.Path, f.Mode, f.Data.Len()))
	}
	slices.Sort(lines)
	want, err := os.ReadFile("expected.txt")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), strings.Join(lines, "")); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestTheExampleDeniesOthers(t *testing.T) {
	if _, err := fetch(t, "default"); provider.Reason(err) != "Denied" || !strings.Contains(err.Error(), `service account "default" of namespace "shop" may not read "db.json"`) {
		t.Errorf("error %v, want the one that README.md shows", err)
	}
}

func TestTheManifestsBelongTogether(t *testing.T) {
	class, pod := read(t, "secretproviderclass.yaml"), read(t, "pod.yaml")
	csi := pod.Spec.Volumes[0].CSI
	got := []string{class.APIVersion, class.Spec.Provider, csi.Driver, csi.VolumeAttributes["secretProviderClass"], pod.Metadata.Namespace}
	want := []string{"secrets-store.csi.x-k8s.io/v1", "file", "secrets-store.csi.k8s.io", class.Metadata.Name, class.Metadata.Namespace}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
