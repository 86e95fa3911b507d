package sanity

import (
	"context"
	"crypto/rand"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	csisanity "github.com/kubernetes-csi/csi-test/v5/pkg/sanity"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
	"github.com/onsi/gomega"
	"google.golang.org/grpc"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
)

// mustRun are the specs without which a green suite says little.
var mustRun = []string{
	"Identity Service GetPluginCapabilities should return appropriate capabilities",
	"Identity Service GetPluginInfo should return appropriate information",
	"Identity Service Probe should return appropriate information",
	"Node Service NodeGetCapabilities should return appropriate capabilities",
	"Node Service NodeGetInfo should return appropriate values",
	"Node Service NodeGetVolumeHealth should fail when no volume id is provided",
	"Node Service NodeGetVolumeHealth should return health for a valid volume",
	"Node Service NodeGetVolumeStats should fail when no volume id is provided",
	"Node Service NodeGetVolumeStats should fail when no volume path is provided",
	"Node Service NodeGetVolumeStats should fail when volume does not exist on the specified path",
	"Node Service NodeGetVolumeStats should fail when volume is not found",
	"Node Service NodePublishVolume should fail when no target path is provided",
	"Node Service NodePublishVolume should fail when no volume capability is provided",
	"Node Service NodePublishVolume should fail when no volume id is provided",
	"Node Service NodeUnpublishVolume should fail when no target path is provided",
	"Node Service NodeUnpublishVolume should fail when no volume id is provided",
	"Node Service NodeUnpublishVolume should remove target path",
	"Node Service should be idempotent",
	"Node Service should work",
}

// notOffered are the specs that the suite itself skips, by the beginning of
// their name, and why that is right. A spec that is skipped for another reason
// is a failure, and so is an excuse that no spec needs.
var notOffered = map[string]string{
	"Controller Service [Controller Server] GetCapacity":                                "the test's controller has no capacity",
	"Controller Service [Controller Server] ListVolumes":                                "the test's controller lists nothing",
	"Controller Service [Controller Server] CreateVolume should create volume from":     "secrets are not cloned",
	"Controller Service [Controller Server] CreateVolume should create volume with":     "volumes are not modified",
	"Controller Service [Controller Server] CreateVolume should not create volume with": "volumes are not modified",
	"Controller Service [Controller Server] CreateVolume should fail when the volume":   "secrets are not cloned",
	"Controller Service [Controller Server] ControllerPublishVolume":                    "nothing is attached to a node",
	"Controller Service [Controller Server] ControllerUnpublishVolume":                  "nothing is attached to a node",
	"Controller Service [Controller Server] volume lifecycle":                           "nothing is attached to a node",
	"ControllerGetVolumeHealth [Controller Server]":                                     "health is the node's",
	"ControllerListVolumeHealth [Controller Server]":                                    "health is the node's",
	"CreateSnapshot [Controller Server]":                                                "secrets are not snapshotted",
	"DeleteSnapshot [Controller Server]":                                                "secrets are not snapshotted",
	"ExpandVolume [Controller Server]":                                                  "volumes have a fixed limit",
	"GetSnapshot [Controller Server]":                                                   "secrets are not snapshotted",
	"GroupController Service":                                                           "volumes are not grouped",
	"ListSnapshots [Controller Server]":                                                 "secrets are not snapshotted",
	"ModifyVolume [Controller Server]":                                                  "volumes are not modified",
	"Node Service NodeExpandVolume":                                                     "volumes have a fixed limit",
	"Node Service NodeGetStorageHealth":                                                 "not announced by the driver",
	"Node Service NodePublishVolume with single node multi writer capability":           "volumes are read-only",
	"Node Service NodeStageVolume":                                                      "not announced by the driver: a volume belongs to one pod",
	"Node Service NodeUnstageVolume":                                                    "not announced by the driver: a volume belongs to one pod",
}

const class = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata:
  name: sanity
  namespace: sanity
spec:
  provider: file
  parameters:
    objects: |
      - objectName: password
        path: app/password
`

func TestSanity(t *testing.T) {
	canary := "c4n4ry-" + rand.Text()
	dir, driver := startDriver(t, canary)
	w := &witness{file: "password", canary: canary}
	f := &front{driver: driver, after: w.after}
	address := filepath.Join(dir, "front.sock")
	serve(t, address, f.server())

	config := csisanity.NewTestConfig()
	config.Address = "unix:" + address
	config.TargetPath, config.StagingPath = filepath.Join(dir, "pods"), filepath.Join(dir, "staging")
	config.CheckPath, config.RemoveTargetPath = w.checkPath, w.removeParent
	config.TestVolumeParameters = map[string]string{
		"secretProviderClass":                    "sanity",
		"csi.storage.k8s.io/pod.name":            "pod",
		"csi.storage.k8s.io/pod.namespace":       "sanity",
		"csi.storage.k8s.io/pod.uid":             "0b3c8d5e-5f0e-4c55-9a35-6a7d7c2f9c11",
		"csi.storage.k8s.io/serviceAccount.name": "default",
	}
	judge(t, run(t, &config))

	for _, problem := range w.problems {
		t.Error(problem)
	}
	t.Logf("looked at the target after %d publishes and %d unpublishes", w.publishes, w.unpublishes)
	if w.publishes < config.IdempotentCount || w.unpublishes == 0 {
		t.Errorf("only %d publishes and %d unpublishes succeeded", w.publishes, w.unpublishes)
	}
}

// startDriver starts the provider and the driver, and returns the folder of
// their files and a connection to the driver.
func startDriver(t *testing.T, canary string) (dir string, driver *grpc.ClientConn) {
	t.Helper()
	dir = t.TempDir()
	for path, text := range map[string]string{"root/sanity/app/password": canary, "classes/sanity.yaml": class} {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sockets := filepath.Join(dir, "providers")
	if err := os.Mkdir(sockets, 0o700); err != nil {
		t.Fatal(err)
	}
	providerBinary, driverBinary := build(t, "keymount-provider"), build(t, "keymount-driver")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	start(t, canary, providerBinary, "--providers=file", "--socket-dir="+sockets, "--file-root="+filepath.Join(dir, "root"), "-v=10")
	provider := v1alpha1.NewCSIDriverProviderClient(connect(t, filepath.Join(sockets, "file.sock")))
	if _, err := provider.Version(ctx, &v1alpha1.VersionRequest{Version: "v1alpha1"}); err != nil {
		t.Fatalf("the provider does not start: %v", err)
	}
	start(t, canary, driverBinary, "--endpoint=unix://"+filepath.Join(dir, "csi.sock"), "--nodeid=node-1", "--kubelet-root=",
		"--provider-volume="+sockets, "--additional-provider-volume-paths=", "--class-dir="+filepath.Join(dir, "classes"),
		"--state-dir="+filepath.Join(dir, "state"), "--metrics-addr=", "-v=10")
	driver = connect(t, filepath.Join(dir, "csi.sock"))
	if _, err := csi.NewIdentityClient(driver).Probe(ctx, &csi.ProbeRequest{}); err != nil {
		t.Fatalf("the driver does not start: %v", err)
	}
	return dir, driver
}

// run runs the suite and returns what became of its specs.
func run(t *testing.T, config *csisanity.TestConfig) []types.SpecReport {
	t.Helper()
	var specs []types.SpecReport
	sc := csisanity.GinkgoTest(config)
	gomega.RegisterFailHandler(ginkgo.Fail)
	ginkgo.ReportAfterSuite("collect", func(report types.Report) { specs = report.SpecReports })
	suite, reporter := ginkgo.GinkgoConfiguration()
	reporter.Succinct = true
	if len(suite.FocusStrings)+len(suite.SkipStrings)+len(suite.FocusFiles)+len(suite.SkipFiles) > 0 || suite.LabelFilter != "" {
		t.Fatal("the suite runs whole: no filters")
	}
	ginkgo.RunSpecs(t, "csi-sanity", suite, reporter)
	sc.Finalize()
	return specs
}

// judge reports each spec that ran as a test of its own, and fails for those
// that should have run.
func judge(t *testing.T, specs []types.SpecReport) {
	t.Helper()
	passed, skipped, failed := []string{}, map[string][]string{}, 0
	for _, spec := range specs {
		name := spec.FullText()
		switch {
		case !spec.LeafNodeType.Is(types.NodeTypeIt):
		case spec.State.Is(types.SpecStatePassed):
			passed = append(passed, name)
			t.Run(name, func(*testing.T) {})
		case spec.State.Is(types.SpecStateSkipped | types.SpecStatePending):
			skipped[reason(name)] = append(skipped[reason(name)], name)
		default:
			failed++
			t.Run(name, func(t *testing.T) { t.Error(spec.FailureMessage()) })
		}
	}
	for _, name := range mustRun {
		if !slices.Contains(passed, name) {
			t.Errorf("did not run and pass: %s", name)
		}
	}
	for _, why := range slices.Sorted(maps.Keys(skipped)) {
		t.Logf("%d not offered: %s\n\t%s", len(skipped[why]), why, strings.Join(skipped[why], "\n\t"))
	}
	if len(skipped[""]) > 0 {
		t.Errorf("skipped without a reason: %q", skipped[""])
	}
	all := slices.Concat(slices.Collect(maps.Values(skipped))...)
	for prefix := range notOffered {
		if !slices.ContainsFunc(all, func(name string) bool { return strings.HasPrefix(name, prefix) }) {
			t.Errorf("no spec was skipped that begins with %q", prefix)
		}
	}
	total := len(passed) + failed
	t.Logf("csi-sanity: %d of %d specs ran: %d passed, %d failed", total, len(specs), len(passed), failed)
}

// reason returns why the suite may skip the spec, or "".
func reason(name string) string {
	for prefix, why := range notOffered {
		if strings.HasPrefix(name, prefix) {
			return why
		}
	}
	return ""
}
