//go:build goexperiment.runtimesecret

package secret

import runtimesecret "runtime/secret"

// Erases says whether Do erases anything.
const Erases = true

func do(f func()) { runtimesecret.Do(f) }
