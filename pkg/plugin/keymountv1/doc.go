// Package keymountv1 is the optional protocol beside v1alpha1, generated from
// keymount.proto by "go generate ./pkg/plugin".
package keymountv1
