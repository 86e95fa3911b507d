//go:build tools

// Package upstream names what this module builds.
package upstream

import _ "sigs.k8s.io/secrets-store-csi-driver/cmd/secrets-store-csi-driver"
