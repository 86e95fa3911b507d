// Package e2e tests the product in a real cluster: the Helm chart, the image,
// real pods, and providers behind their sockets. Package cluster makes one if
// KUBECONFIG does not name it.
package e2e
