package kube

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

//go:generate go run k8s.io/code-generator/cmd/deepcopy-gen@v0.37.2 --output-file zz_generated.deepcopy.go --go-header-file /dev/null .

// groupVersion is the API of classes and their status objects. Its v1alpha1 is
// the same by the API server's conversion.
var groupVersion = schema.GroupVersion{Group: "secrets-store.csi.x-k8s.io", Version: "v1"}

// A SecretProviderClass says which provider to ask, and for what.
//
// +k8s:deepcopy-gen=true
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type SecretProviderClass struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec SecretProviderClassSpec `json:"spec,omitempty"`
}

// A SecretProviderClassSpec is what the author of a class decides.
//
// +k8s:deepcopy-gen=true
type SecretProviderClassSpec struct {
	Provider      string            `json:"provider,omitempty"`
	Parameters    map[string]string `json:"parameters,omitempty"`
	SecretObjects []SecretObject    `json:"secretObjects,omitempty"`
}

// A SecretObject asks for a copy of files in a Kubernetes Secret.
//
// +k8s:deepcopy-gen=true
type SecretObject struct {
	SecretName  string             `json:"secretName,omitempty"`
	Type        string             `json:"type,omitempty"`
	Labels      map[string]string  `json:"labels,omitempty"`
	Annotations map[string]string  `json:"annotations,omitempty"`
	Data        []SecretObjectData `json:"data,omitempty"`
}

// SecretObjectData says which file a key of the Secret holds.
//
// +k8s:deepcopy-gen=true
type SecretObjectData struct {
	ObjectName string `json:"objectName,omitempty"`
	Key        string `json:"key,omitempty"`
}

// A SecretProviderClassList is what the API server answers to a list.
//
// +k8s:deepcopy-gen=true
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type SecretProviderClassList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SecretProviderClass `json:"items"`
}

// A SecretProviderClassPodStatus tells of one published volume.
//
// +k8s:deepcopy-gen=true
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type SecretProviderClassPodStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status PodStatus `json:"status,omitempty"`
}

// A PodStatus is the state of a published volume. The first five fields are
// those of the upstream driver.
//
// +k8s:deepcopy-gen=true
type PodStatus struct {
	PodName                 string          `json:"podName,omitempty"`
	SecretProviderClassName string          `json:"secretProviderClassName,omitempty"`
	Mounted                 bool            `json:"mounted,omitempty"`
	TargetPath              string          `json:"targetPath,omitempty"`
	Objects                 []ObjectVersion `json:"objects,omitempty"`

	Conditions      []metav1.Condition `json:"conditions,omitempty"`      // Ready and Stale
	LastRefreshTime *metav1.Time       `json:"lastRefreshTime,omitempty"` // last success when this was written
	ClassGeneration int64              `json:"classGeneration,omitempty"` // of the class whose content the volume holds
	Secrets         []string           `json:"secrets,omitempty"`         // Kubernetes Secrets with copies
}

// An ObjectVersion is what a volume holds of one object of the store.
//
// +k8s:deepcopy-gen=true
type ObjectVersion struct {
	ID      string `json:"id,omitempty"`
	Version string `json:"version,omitempty"`
}

// A SecretProviderClassPodStatusList is what the API server answers to a list.
//
// +k8s:deepcopy-gen=true
// +k8s:deepcopy-gen:interfaces=k8s.io/apimachinery/pkg/runtime.Object
type SecretProviderClassPodStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []SecretProviderClassPodStatus `json:"items"`
}
