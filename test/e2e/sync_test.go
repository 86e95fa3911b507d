package e2e

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

var metaGet = metav1.GetOptions{}

var syncing = []scenario{
	{"without sync the driver writes no Secret, and may read none", false, noSyncByDefault},
	{"two Deployments share a Secret, which goes with the last of them", false, sharedSecret},
	{"a Secret of a bare pod rotates, and goes with the pod", false, secretOfPod},
	{"a Secret that is somebody else's is not touched", false, foreignSecret},
	{"scaling to nothing and back keeps the Secret", false, scaledSecret},
	{"a Secret that the class drops is removed, also after the driver was replaced", false, droppedSecret},
	{"a Secret that was deleted is made again", false, restoredSecret},
	{"a key and its certificates become a Secret of type kubernetes.io/tls", false, secretOfCertificate},
	{"the manifests of upstream's own tests work unchanged", true, upstreamManifestsWork},
}

// synced returns the class with a Secret that has the object.
func synced(class, secret, object string) string {
	return class + fmt.Sprintf(`  secretObjects:
  - secretName: %s
    type: Opaque
    labels: {environment: test}
    data: [{objectName: %s, key: username}]
`, secret, object)
}

func noSyncByDefault(t *testing.T, s *suite) {
	ns := s.namespace(t)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": s.canary()}})
	s.apply(t, ns, synced(class("c", "foo"), "copy", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	for _, verb := range []string{"get", "list", "watch", "create", "update", "delete"} {
		if out, err := s.kubectl(t.Context(), "", "auth", "can-i", verb, "secrets", "-n", ns, "--as", driverAccount); err == nil || strings.TrimSpace(out) != "no" {
			t.Errorf("the driver may %s Secrets: %s", verb, out)
		}
	}
	for _, kind := range []string{"secrets", "pods"} {
		if out, err := s.kubectl(t.Context(), "", "get", kind, "-n", ns, "--as", driverAccount); err == nil || !strings.Contains(err.Error(), "Forbidden") {
			t.Errorf("the driver lists %s: %s, %v", kind, out, err)
		}
	}
	if _, err := s.api.CoreV1().Secrets(ns).Get(t.Context(), "copy", metaGet); !apierrors.IsNotFound(err) {
		t.Errorf("the Secret: %v, want that there is none", err)
	}
	s.install(t, "syncSecrets.enabled=true") // for the scenarios that follow
}

// secretIs waits until a Secret has the value and so many owners.
func (s *suite) secretIs(t *testing.T, ns, name, value string, owners int) {
	t.Helper()
	s.eventually(t, "Secret "+name, func(ctx context.Context) error {
		secret, err := s.api.CoreV1().Secrets(ns).Get(ctx, name, metaGet)
		switch {
		case err != nil:
			return err
		case string(secret.Data["username"]) != value:
			return fmt.Errorf("it has another value")
		case len(secret.OwnerReferences) != owners:
			return fmt.Errorf("it is owned by %v, want %d owners", secret.OwnerReferences, owners)
		case secret.Labels["secrets-store.csi.k8s.io/managed"] != "true" || secret.Labels["environment"] != "test":
			return fmt.Errorf("its labels are %v", secret.Labels)
		}
		return nil
	})
}

func (s *suite) secretIsGone(t *testing.T, ns, name string) {
	t.Helper()
	s.eventually(t, "Secret "+name+" is gone", func(ctx context.Context) error {
		_, err := s.api.CoreV1().Secrets(ns).Get(ctx, name, metaGet)
		return gone(err)
	})
}

// gone returns nil if err, of a get, says that there is no such object.
func gone(err error) error {
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err == nil:
		return errors.New("it is there")
	default:
		return err
	}
}

// deployment returns a Deployment of two pods with a volume of the class, and
// the Secret as an environment variable.
func (s *suite) deployment(name, class, secret string) string {
	return fmt.Sprintf(`apiVersion: apps/v1
kind: Deployment
metadata: {name: %[1]s}
spec:
  replicas: 2
  selector: {matchLabels: {app: %[1]s}}
  template:
    metadata: {labels: {app: %[1]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: app
        image: %[4]s
        imagePullPolicy: Never
        command: [sh, -c, "trap exit TERM; while :; do sleep 1000 & wait; done"]
        env: [{name: USERNAME, valueFrom: {secretKeyRef: {name: %[3]s, key: username}}}]
        volumeMounts: [{name: v, mountPath: /secrets, readOnly: true}]
      volumes: [{name: v, csi: {driver: %[5]s, readOnly: true, volumeAttributes: {secretProviderClass: %[2]s}}}]
`, name, class, secret, s.Images()["busybox"], driverName)
}

func sharedSecret(t *testing.T, s *suite) {
	ns := s.namespace(t)
	value := s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": value}})
	s.apply(t, ns, synced(class("c", "foo"), "shared", "foo"), s.deployment("one", "c", "shared"), s.deployment("two", "c", "shared"))
	s.await(t, ns, "deployment/one")
	s.await(t, ns, "deployment/two")
	s.secretIs(t, ns, "shared", value, 2)
	s.sees(t, ns, "deployment/two", "/secrets/foo", value)
	out, err := s.kubectl(t.Context(), "", "exec", "-n", ns, "deployment/one", "--", "sh", "-c", "echo -n $USERNAME")
	if err != nil || out != value {
		t.Errorf("the environment variable is wrong: %v", err)
	}
	for _, name := range []string{"one", "two"} {
		if _, err := s.kubectl(t.Context(), "", "delete", "deployment", "-n", ns, name); err != nil {
			t.Fatal(err)
		}
		if name == "one" {
			s.secretIs(t, ns, "shared", value, 1)
		}
	}
	s.secretIsGone(t, ns, "shared")
}

func secretOfPod(t *testing.T, s *suite) {
	ns := s.namespace(t)
	first, second := s.canary(), s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": first}})
	s.apply(t, ns, synced(with(class("c", "foo"), "rotationInterval: 3s"), "copy", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.secretIs(t, ns, "copy", first, 1)
	s.mock(t, ns, answer{Objects: map[string]string{"foo": second}})
	s.sees(t, ns, "app", "/secrets/c/foo", second)
	s.secretIs(t, ns, "copy", second, 1)
	s.remove(t, ns, "app")
	s.secretIsGone(t, ns, "copy")
}

func foreignSecret(t *testing.T, s *suite) {
	ns := s.namespace(t)
	theirs := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}, Data: map[string][]byte{"username": []byte("theirs")}}
	made, err := s.api.CoreV1().Secrets(ns).Create(t.Context(), theirs, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.mock(t, ns, answer{Objects: map[string]string{"foo": s.canary()}})
	s.apply(t, ns, synced(class("c", "foo"), "theirs", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.event(t, ns, "app", "FailedToCreateSecret", "it exists and is not the driver's")
	is, err := s.api.CoreV1().Secrets(ns).Get(t.Context(), "theirs", metaGet)
	if err != nil || is.ResourceVersion != made.ResourceVersion {
		t.Errorf("the Secret was changed: %v", err)
	}
}

func scaledSecret(t *testing.T, s *suite) {
	ns := s.namespace(t)
	value := s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": value}})
	s.apply(t, ns, synced(class("c", "foo"), "scaled", "foo"), s.deployment("web", "c", "scaled"))
	s.await(t, ns, "deployment/web")
	s.secretIs(t, ns, "scaled", value, 1)
	before, err := s.api.CoreV1().Secrets(ns).Get(t.Context(), "scaled", metaGet)
	if err != nil {
		t.Fatal(err)
	}
	for _, replicas := range []string{"0", "4", "1", "2"} {
		if _, err := s.kubectl(t.Context(), "", "scale", "-n", ns, "deployment/web", "--replicas="+replicas); err != nil {
			t.Fatal(err)
		}
		s.await(t, ns, "deployment/web")
	}
	after, err := s.api.CoreV1().Secrets(ns).Get(t.Context(), "scaled", metaGet)
	if err != nil || after.UID != before.UID || after.ResourceVersion != before.ResourceVersion {
		t.Errorf("the Secret was written while nothing of it changed: %v", err)
	}
	// A rollout makes another ReplicaSet, which owns the Secret too.
	if _, err := s.kubectl(t.Context(), "", "rollout", "restart", "-n", ns, "deployment/web"); err != nil {
		t.Fatal(err)
	}
	s.await(t, ns, "deployment/web")
	s.secretIs(t, ns, "scaled", value, 2)
}

func droppedSecret(t *testing.T, s *suite) {
	ns := s.namespace(t)
	value := s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": value}})
	s.apply(t, ns, synced(class("c", "foo"), "dropped", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.secretIs(t, ns, "dropped", value, 1)
	s.eventually(t, "the status names the Secret", func(context.Context) error {
		if list := s.status(t, ns, "app-"+ns+"-c"); !strings.Contains(fmt.Sprint(list.Object["status"]), "secrets:[dropped]") {
			return fmt.Errorf("it is %v", list.Object["status"])
		}
		return nil
	})
	s.restartDriver(t)
	s.apply(t, ns, class("c", "foo")+"  secretObjects: []\n")
	s.secretIsGone(t, ns, "dropped")
	s.sees(t, ns, "app", "/secrets/c/foo", value)
}

func restoredSecret(t *testing.T, s *suite) {
	ns := s.namespace(t)
	first, second := s.canary(), s.canary()
	s.mock(t, ns, answer{Objects: map[string]string{"foo": first}})
	s.apply(t, ns, synced(with(class("c", "foo"), "rotationInterval: 3s"), "copy", "foo"))
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.secretIs(t, ns, "copy", first, 1)
	// Somebody edits it: the next content repairs it. Somebody deletes it: so it does.
	patch := []byte(`{"data":{"username":"bWluZQ==","extra":"bWluZQ=="}}`)
	if _, err := s.api.CoreV1().Secrets(ns).Patch(t.Context(), "copy", types.MergePatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	s.mock(t, ns, answer{Objects: map[string]string{"foo": second}})
	s.secretIs(t, ns, "copy", second, 1)
	if err := s.api.CoreV1().Secrets(ns).Delete(t.Context(), "copy", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.mock(t, ns, answer{Objects: map[string]string{"foo": first}})
	s.secretIs(t, ns, "copy", first, 1)
}

func secretOfCertificate(t *testing.T, s *suite) {
	ns := s.namespace(t)
	private, certificate := newCertificate(t)
	s.mock(t, ns, answer{Objects: map[string]string{"bundle": private + certificate}})
	s.apply(t, ns, class("c", "bundle")+`  secretObjects:
  - secretName: web
    type: kubernetes.io/tls
    data: [{objectName: bundle, key: tls.key}, {objectName: bundle, key: tls.crt}]
`)
	s.start(t, ns, podSpec{name: "app", classes: []string{"c"}})
	s.eventually(t, "Secret web", func(ctx context.Context) error {
		secret, err := s.api.CoreV1().Secrets(ns).Get(ctx, "web", metaGet)
		if err != nil {
			return err
		}
		if string(secret.Data["tls.crt"]) != certificate || secret.Type != corev1.SecretTypeTLS {
			return fmt.Errorf("it is of type %s, or has another certificate", secret.Type)
		}
		_, err = tls.X509KeyPair(secret.Data["tls.crt"], secret.Data["tls.key"])
		return err
	})
}

// newCertificate returns a key and a certificate of it, in PEM.
func newCertificate(t *testing.T) (private, certificate string) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})),
		string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
}

// restartDriver replaces the driver's pods, as an update does.
func (s *suite) restartDriver(t *testing.T) {
	t.Helper()
	s.keepLogs(t)
	for _, args := range [][]string{{"rollout", "restart"}, {"rollout", "status", "--timeout=2m"}} {
		if out, err := s.kubectl(t.Context(), "", append(args, "-n", system, "daemonset/keymount")...); err != nil {
			t.Fatal(out, err, s.describe(system))
		}
	}
}
