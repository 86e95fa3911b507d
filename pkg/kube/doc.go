// Package kube is all that needs an API server: it finds classes, and it tells
// of published volumes by status objects, events and, where that is asked for,
// copies in Kubernetes Secrets. It looks up what providers want to know of a
// pod's service account and of the node and, where that is asked for, makes
// tokens that kubelet does not bring. It is the only package that knows client-go.
//
// Its work grows with the volumes of this node, never with the cluster: there
// is no informer of anything but the classes and service accounts in use here
// and the node, and nothing is written while nothing changes. What it tells and fails to is tried again in
// the background, and never fails a publish.
package kube
