// Package sanity runs the CSI sanity suite of kubernetes-csi/csi-test against
// the real binaries: keymount-driver as kubelet would call it, fed by
// keymount-provider with the file provider.
//
// The suite runs its positive, idempotency and target-removal specs only for
// drivers that create volumes, which an ephemeral driver has no business with.
// So the test puts a small controller in front, that lives in the test alone:
// it turns class parameters into a volume context, and passes every Node and
// Identity call on to the driver byte by byte. No spec is filtered out.
//
// It is a module of its own, so that csi-test and ginkgo stay out of the
// product's dependencies.
package sanity
