package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// An answer is what the mock provider gives the pods of a namespace.
type answer struct {
	Objects   map[string]string
	Code      codes.Code
	Message   string
	ErrorCode string
	Delay     time.Duration
	Audience  *string
}

// seen is what the mock provider was asked by pods of a namespace.
type seen struct {
	Mounts                           int
	Attributes, Audiences, Authority []string
	Current                          map[string]string
	Permission, BoundTo              string
}

// mock makes the mock provider answer pods of the namespace so.
func (s *suite) mock(t testing.TB, namespace string, a answer) {
	t.Helper()
	body, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	s.eventually(t, "the mock provider obeys", func(ctx context.Context) error {
		return s.api.CoreV1().RESTClient().Put().Namespace(mockNamespace).Resource("pods").Name("mock:8080").SubResource("proxy").
			Suffix(namespace).Body(body).Do(ctx).Error()
	})
}

// asked returns what pods of the namespace have asked the mock provider for.
func (s *suite) asked(t testing.TB, namespace string) seen {
	t.Helper()
	var got seen
	s.eventually(t, "the mock provider answers", func(ctx context.Context) error {
		body, err := s.api.CoreV1().RESTClient().Get().Namespace(mockNamespace).Resource("pods").Name("mock:8080").SubResource("proxy").
			Suffix(namespace).DoRaw(ctx)
		if err != nil {
			return err
		}
		return json.Unmarshal(body, &got)
	})
	return got
}

// startMock starts the mock provider, as a pod in a namespace of its own, with
// its sockets in the usual folder of the node. One has the name that manifests
// of upstream's tests use.
func (s *suite) startMock(t testing.TB) {
	t.Helper()
	_, err := s.api.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: mockNamespace}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
	s.apply(t, mockNamespace, fmt.Sprintf(`apiVersion: v1
kind: Pod
metadata: {name: mock}
spec:
  terminationGracePeriodSeconds: 1
  automountServiceAccountToken: false
  containers:
  - name: mock
    image: %s
    imagePullPolicy: Never
    args: ["--names=mock,e2e-provider"]
    ports: [{containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    volumeMounts: [{name: sockets, mountPath: %s}]
  volumes: [{name: sockets, hostPath: {path: %[2]s, type: DirectoryOrCreate}}]
`, s.Images()["mockprovider"], providersDir))
	s.awaitReady(t, mockNamespace, "mock")
}
