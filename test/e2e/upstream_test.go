package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// upstreamManifestsWork does what the tests of the upstream driver do with
// their mock provider, with the very manifests of theirs.
func upstreamManifestsWork(t *testing.T, s *suite) {
	s.haveExampleImage(t)
	for _, c := range []struct {
		name string
		run  func(*upstreamCase, *testing.T)
	}{
		{"a class of v1alpha1", func(u *upstreamCase, t *testing.T) { u.mounts(t, "e2e_provider_v1alpha1_secretproviderclass.yaml") }},
		{"a class of v1, and the end of its pod", func(u *upstreamCase, t *testing.T) { u.mounts(t, "e2e_provider_v1_secretproviderclass.yaml") }},
		{"two Deployments that share a Secret", (*upstreamCase).shares},
		{"a class of the same name in another namespace is invalid", (*upstreamCase).otherNamespace},
		{"no class in the namespace", (*upstreamCase).noClass},
		{"two classes in a pod", (*upstreamCase).twoClasses},
		{"rotation of a file and a Secret", (*upstreamCase).rotates},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(newUpstreamCase(t, s), t) })
	}
}

// An upstreamCase is a namespace with a provider that has two secrets.
type upstreamCase struct {
	*suite
	ns       string
	foo, key string
}

func newUpstreamCase(t *testing.T, s *suite) *upstreamCase {
	t.Helper()
	u := &upstreamCase{suite: s, ns: s.namespace(t), foo: s.canary(), key: "-----BEGIN-----\n" + s.canary() + "\n-----END-----\n"}
	s.mock(t, u.ns, answer{Objects: map[string]string{"foo": u.foo, "fookey": u.key}})
	return u
}

// use applies a manifest of upstream's tests to the case's namespace, with the
// variables that those tests set.
func (u *upstreamCase) use(t *testing.T, manifest string) {
	t.Helper()
	u.apply(t, u.ns, upstreamManifest(t, manifest))
}

func upstreamManifest(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(upstreamFolder(t, "test/bats/tests/e2e_provider"), name))
	if err != nil {
		t.Fatal(err)
	}
	variables := map[string]string{
		"API_VERSION": "secrets-store.csi.x-k8s.io/v1", "NODE_SELECTOR_OS": "linux", "LABEL_VALUE": "test",
		"SECRET_NAME": "foo", "SECRET_VERSION": "v1", "KEY_NAME": "fookey", "KEY_VERSION": "v1",
	}
	return os.Expand(string(text), func(name string) string {
		value, ok := variables[name]
		if !ok {
			t.Fatalf("the manifest has a variable %s", name)
		}
		return value
	})
}

func (u *upstreamCase) mounts(t *testing.T, class string) {
	const pod = "secrets-store-inline-crd"
	u.use(t, class)
	u.use(t, "pod-secrets-store-inline-volume-crd.yaml")
	u.awaitStart(t, u.ns, pod)
	u.sees(t, u.ns, pod, "/mnt/secrets-store/foo", u.foo)
	u.sees(t, u.ns, pod, "/mnt/secrets-store/fookey", u.key)
	if took := u.remove(t, u.ns, pod); took > time.Minute {
		t.Errorf("deleting the pod took %v", took)
	}
	u.noMountIsLeft(t)
}

func (u *upstreamCase) shares(t *testing.T) {
	u.use(t, "e2e_provider_synck8s_v1_secretproviderclass.yaml")
	u.use(t, "deployment-synck8s-e2e-provider.yaml")
	u.use(t, "deployment-two-synck8s-e2e-provider.yaml")
	u.reads(t, "busybox-deployment", "busybox-deployment-two")
	u.secretIs(t, u.ns, "foosecret", u.foo, 2)
	u.drop(t, "busybox-deployment")
	u.secretIs(t, u.ns, "foosecret", u.foo, 1)
	u.drop(t, "busybox-deployment-two")
	u.secretIsGone(t, u.ns, "foosecret")
}

// reads checks files and the environment of Deployments' pods.
func (u *upstreamCase) reads(t *testing.T, deployments ...string) {
	t.Helper()
	for _, name := range deployments {
		u.await(t, u.ns, "deployment/"+name)
		u.sees(t, u.ns, "deployment/"+name, "/mnt/secrets-store/foo", u.foo)
		u.sees(t, u.ns, "deployment/"+name, "/mnt/secrets-store/fookey", u.key)
		u.variable(t, "deployment/"+name, "SECRET_USERNAME")
	}
}

func (u *upstreamCase) variable(t *testing.T, pod, name string) {
	t.Helper()
	out, err := u.kubectl(t.Context(), "", "exec", "-n", u.ns, pod, "--", "sh", "-c", "echo -n $"+name)
	if err != nil || out != u.foo {
		t.Errorf("the variable %s is wrong: %v", name, err)
	}
}

func (u *upstreamCase) drop(t *testing.T, deployment string) {
	t.Helper()
	if _, err := u.kubectl(t.Context(), "", "delete", "deployment", "-n", u.ns, deployment); err != nil {
		t.Fatal(err)
	}
}

// otherNamespace has its namespaces in the manifest.
func (u *upstreamCase) otherNamespace(t *testing.T) {
	u.ns = "test-ns"
	u.makeNamespace(t, u.ns)
	u.mock(t, u.ns, answer{Objects: map[string]string{"foo": u.foo, "fookey": u.key}})
	classes := upstreamManifest(t, "e2e_provider_v1_secretproviderclass_ns.yaml")
	if _, err := u.kubectl(t.Context(), classes, "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	u.use(t, "deployment-synck8s-e2e-provider.yaml")
	u.reads(t, "busybox-deployment")
	u.holds(t, "foosecret", u.foo)
	u.drop(t, "busybox-deployment")
	u.secretIsGone(t, u.ns, "foosecret")
	if _, err := u.kubectl(t.Context(), classes, "delete", "-f", "-"); err != nil {
		t.Error(err)
	}
}

func (u *upstreamCase) noClass(t *testing.T) {
	u.use(t, "deployment-synck8s-e2e-provider.yaml")
	var pod string
	u.eventually(t, "there is a pod", func(ctx context.Context) error {
		pods, err := u.api.CoreV1().Pods(u.ns).List(ctx, metav1.ListOptions{LabelSelector: "app=busybox"})
		if err != nil || len(pods.Items) == 0 {
			return errors.Join(err, errors.New("there is none"))
		}
		pod = pods.Items[0].Name
		return nil
	})
	u.event(t, u.ns, pod, "FailedMount", "failed to get secretproviderclass "+u.ns+"/e2e-provider-sync.*not found")
}

func (u *upstreamCase) twoClasses(t *testing.T) {
	const pod = "secrets-store-inline-multiple-crd"
	u.use(t, "e2e_provider_v1_multiple_secretproviderclass.yaml")
	u.use(t, "pod-e2e-provider-inline-volume-multiple-spc.yaml")
	u.awaitStart(t, u.ns, pod)
	for i := range 2 {
		u.sees(t, u.ns, pod, fmt.Sprintf("/mnt/secrets-store-%d/foo", i), u.foo)
		u.sees(t, u.ns, pod, fmt.Sprintf("/mnt/secrets-store-%d/fookey", i), u.key)
		u.variable(t, pod, fmt.Sprintf("SECRET_USERNAME_%d", i))
		u.holds(t, fmt.Sprintf("foosecret-%d", i), u.foo)
	}
}

// holds waits until a Secret of one owner has the value.
func (u *upstreamCase) holds(t *testing.T, name, value string) {
	t.Helper()
	u.eventually(t, "Secret "+name, func(ctx context.Context) error {
		secret, err := u.api.CoreV1().Secrets(u.ns).Get(ctx, name, metaGet)
		if err == nil && (string(secret.Data["username"]) != value || len(secret.OwnerReferences) != 1 || secret.Type != corev1.SecretTypeOpaque) {
			err = fmt.Errorf("it has another value, is of type %s, or is owned by %v", secret.Type, secret.OwnerReferences)
		}
		return err
	})
}

func (u *upstreamCase) rotates(t *testing.T) {
	const pod = "secrets-store-inline-rotation"
	u.use(t, "rotation/e2e_provider_synck8s_v1_secretproviderclass.yaml")
	u.use(t, "rotation/pod-synck8s-e2e-provider.yaml")
	u.awaitStart(t, u.ns, pod)
	u.sees(t, u.ns, pod, "/mnt/secrets-store/foo", u.foo)
	u.holds(t, "rotationsecret", u.foo)
	next := u.canary()
	u.mock(t, u.ns, answer{Objects: map[string]string{"foo": next}})
	u.within(t, defaultInterval+defaultInterval/10+2*time.Second, "the pod sees the change", func(ctx context.Context) error {
		got, err := u.read(ctx, u.ns, pod, "/mnt/secrets-store/foo")
		if err == nil && got != next {
			err = errors.New("it sees the one before")
		}
		return err
	})
	u.holds(t, "rotationsecret", next)
}
