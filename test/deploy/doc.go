// Package deploy holds the manifests to what they promise, without a cluster:
// those that `make manifests` renders from the Helm chart with its defaults
// and with other values, the definitions of the custom resources, and the
// examples. What an API server and kubelet make of them is for the end-to-end
// tests.
package deploy
