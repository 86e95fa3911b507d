// Package v1alpha1 is the provider protocol of the Secrets Store CSI driver,
// generated from service.proto by "go generate ./pkg/plugin".
package v1alpha1
