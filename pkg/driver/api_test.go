package driver_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
)

// An api is as much of an API server as a driver needs: one class, one pod, one
// service account, one node, and whatever it writes is taken.
type api struct {
	mu      sync.Mutex
	objects map[string]string // answers to GET, by path
	calls   []string          // verb and path of each
	events  []string          // that were created
	token   string            // that it makes
	done    chan struct{}     // closed at the end of the test, which ends watches
}

const customPath = "/apis/secrets-store.csi.x-k8s.io/v1"

// useCluster makes the driver use an API server instead of a folder.
func (r *rig) useCluster(parameters map[string]string) *api {
	r.t.Helper()
	text, err := json.Marshal(parameters)
	if err != nil {
		r.t.Fatal(err)
	}
	a := &api{done: make(chan struct{}), token: rand.Text(), objects: map[string]string{
		customPath + "/namespaces/ns/secretproviderclasses/c": fmt.Sprintf(`{"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClass",
			"metadata": {"name": "c", "namespace": "ns", "generation": 1}, "spec": {"provider": "foreign", "parameters": %s,
			"secretObjects": [{"secretName": "copy", "type": "Opaque", "data": [{"objectName": "password", "key": "password"}]}]}}`, text),
		"/api/v1/namespaces/ns/pods/p-v":           `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p-v", "namespace": "ns", "uid": "u-v"}}`,
		"/api/v1/namespaces/ns/serviceaccounts/sa": `{"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "sa", "namespace": "ns", "annotations": {"example.com/role": "reader"}}}`,
		"/api/v1/nodes/n":                          `{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n", "resourceVersion": "7", "labels": {"topology.kubernetes.io/region": "eu"}}, "spec": {"taints": [{"key": "keymount.io/agent-not-ready", "effect": "NoSchedule"}]}}`,
	}}
	server := httptest.NewServer(a)
	r.t.Cleanup(func() {
		close(a.done)
		server.Close()
	})
	kubeconfig := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c", "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
		"clusters": [{"name": "c", "cluster": {"server": %q}}], "users": [{"name": "u", "user": {}}]}`, server.URL)
	if err := os.WriteFile(r.path("kubeconfig"), []byte(kubeconfig), 0o600); err != nil {
		r.t.Fatal(err)
	}
	r.config.ClassDir, r.config.Kubeconfig = "", r.path("kubeconfig")
	return a
}

// ServeHTTP implements http.Handler.
func (a *api) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	a.note(req)
	if req.Method != http.MethodGet {
		a.write(w, req)
		return
	}
	object, found := a.objects[req.URL.Path]
	switch {
	case req.URL.Query().Get("watch") != "":
		w.(http.Flusher).Flush()
		select {
		case <-a.done:
		case <-req.Context().Done():
		}
	case found:
		_, _ = io.WriteString(w, object)
	case strings.HasSuffix(req.URL.Path, "/secretproviderclasses"):
		_, _ = fmt.Fprintf(w, `{"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClassList", "metadata": {"resourceVersion": "1"}, "items": [%s]}`,
			a.objects[customPath+"/namespaces/ns/secretproviderclasses/c"])
	case strings.HasSuffix(req.URL.Path, "/secretproviderclasspodstatuses"):
		_, _ = io.WriteString(w, `{"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClassPodStatusList", "metadata": {"resourceVersion": "1"}, "items": []}`)
	default:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}`)
	}
}

// note remembers a call.
func (a *api) note(req *http.Request) {
	verb := req.Method
	if req.URL.Query().Get("watch") != "" {
		verb = "WATCH"
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, verb+" "+req.URL.Path)
}

// write takes what is written as it is. A token that is asked for is its token.
func (a *api) write(w http.ResponseWriter, req *http.Request) {
	if req.Method == http.MethodPatch {
		object := a.objects[req.URL.Path]
		if object == "" {
			object = `{"apiVersion": "secrets-store.csi.x-k8s.io/v1", "kind": "SecretProviderClassPodStatus"}`
		}
		_, _ = io.WriteString(w, object)
		return
	}
	if strings.HasSuffix(req.URL.Path, "/token") {
		_, _ = fmt.Fprintf(w, `{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 900}, "status": {"token": %q}}`, a.token)
		return
	}
	body, _ := io.ReadAll(req.Body)
	if strings.HasSuffix(req.URL.Path, "/events") {
		a.mu.Lock()
		a.events = append(a.events, string(body))
		a.mu.Unlock()
	}
	_, _ = w.Write(body)
}

// told returns the messages of the events of a reason.
func (a *api) told(reason string) (messages []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, text := range a.events {
		var event struct{ Reason, Message string }
		if json.Unmarshal([]byte(text), &event) == nil && event.Reason == reason {
			messages = append(messages, event.Message)
		}
	}
	return messages
}

// called reports whether a call was made.
func (a *api) called(call string) bool { return a.count(call) > 0 }

// count returns how often a call was made.
func (a *api) count(call string) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		if c == call {
			n++
		}
	}
	return n
}
