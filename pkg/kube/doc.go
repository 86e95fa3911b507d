// Package kube is all that needs an API server: it finds classes, and it tells
// of published volumes by status objects, events and, where that is asked for,
// copies in Kubernetes Secrets. Where that is asked for, it also makes tokens
// that kubelet does not bring. It is the only package that knows client-go.
//
// Its work grows with the volumes of this node, never with the cluster: there
// is no informer of anything but the classes in use here, and nothing is
// written while nothing changes. What it tells and fails to is tried again in
// the background, and never fails a publish.
package kube
