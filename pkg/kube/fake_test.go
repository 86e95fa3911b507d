package kube

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/volume"
)

// patience is how long anything may take to happen.
const patience = 10 * time.Second

// An object is one that the API server has, as JSON decodes it.
type object = map[string]any

// A fakeAPI keeps objects by path, as an API server does: with resource
// versions, watches, preconditions, and field managers of whole status objects.
// The real one is used by the end-to-end tests.
type fakeAPI struct {
	t       *testing.T
	client  *Client
	mu      sync.Mutex
	version int
	objects map[string]object
	owners  map[string]string // field manager of a status, by path
	calls   []string          // verb and path of each request
	bodies  []string          // of those that were no Secrets
	mark    string            // in tokens that are made
	life    int               // of tokens in seconds, if it is not the one that is asked for
	refuse  func(verb, path string) int
	changed chan struct{} // closed and replaced when something changes
	done    chan struct{}
}

func newFakeAPI(t *testing.T) *fakeAPI {
	t.Helper()
	f := &fakeAPI{t: t, objects: map[string]object{}, owners: map[string]string{}, changed: make(chan struct{}), done: make(chan struct{})}
	server := httptest.NewServer(f)
	t.Cleanup(func() { close(f.done); server.Close() })
	var err error
	if f.client, err = newClient(&rest.Config{Host: server.URL, QPS: -1}); err != nil {
		t.Fatal(err)
	}
	return f
}

const (
	custom   = "/apis/secrets-store.csi.x-k8s.io/v1"
	statuses = custom + "/namespaces/ns/secretproviderclasspodstatuses/"
	classes  = custom + "/namespaces/ns/secretproviderclasses/"
	secrets  = "/api/v1/namespaces/ns/secrets/"
	events   = "/api/v1/namespaces/ns/events/"
	pods     = "/api/v1/namespaces/ns/pods/"
	nodes    = "/api/v1/nodes/"
	accounts = "/api/v1/namespaces/ns/serviceaccounts/"
	tokens   = accounts + "sa/token"
)

// kinds are those of the collections that are listed.
var kinds = map[string]string{
	"secretproviderclasses": "SecretProviderClass", "secretproviderclasspodstatuses": "SecretProviderClassPodStatus",
	"serviceaccounts": "ServiceAccount", "nodes": "Node",
}

// put stores an object, as somebody else may.
func (f *fakeAPI) put(at string, o object) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.store(at, o)
}

// store needs mu.
func (f *fakeAPI) store(at string, o object) object {
	f.version++
	var own object
	text, err := json.Marshal(o)
	if err == nil {
		err = json.Unmarshal(text, &own)
	}
	if err != nil {
		f.t.Error(err)
	}
	meta, _ := own["metadata"].(object)
	if meta == nil {
		meta = object{}
		own["metadata"] = meta
	}
	meta["resourceVersion"] = strconv.Itoa(f.version)
	if meta["name"] == nil {
		meta["name"] = path.Base(at)
	}
	if meta["uid"] == nil {
		meta["uid"] = rand.Text()
	}
	if strings.Contains(at, "/namespaces/") {
		meta["namespace"] = "ns"
	}
	f.objects[at] = own
	f.wake()
	return own
}

func (f *fakeAPI) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeAPI) remove(at string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version++
	delete(f.objects, at)
	f.wake()
}

// get returns an object, nil if there is none.
func (f *fakeAPI) get(at string) object {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.objects[at]
}

// field returns what is at the path of names in an object.
func field(o object, names ...string) any {
	for i, name := range names {
		if i == len(names)-1 {
			return o[name]
		}
		o, _ = o[name].(object)
	}
	return nil
}

// requests returns the requests so far of which the verb and path begin so.
func (f *fakeAPI) requests(prefix string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.calls), func(c string) bool { return !strings.HasPrefix(c, prefix) })
}

// writes returns the requests so far that were no reads.
func (f *fakeAPI) writes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(f.calls), func(c string) bool { return strings.HasPrefix(c, "GET") || strings.HasPrefix(c, "WATCH") })
}

// eventually waits until check holds.
func (f *fakeAPI) eventually(what string, check func() bool) {
	f.t.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-deadline:
			f.t.Fatalf("not within %v: %s; requests: %q", patience, what, f.requests(""))
		case <-tick.C:
		}
	}
}

// ServeHTTP implements http.Handler.
func (f *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	verb := r.Method
	if r.URL.Query().Get("watch") != "" {
		verb = "WATCH"
	}
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	f.calls = append(f.calls, verb+" "+r.URL.Path)
	if !strings.Contains(r.URL.Path, "/secrets") {
		f.bodies = append(f.bodies, string(body))
	}
	code := 0
	if f.refuse != nil {
		code = f.refuse(verb, r.URL.Path)
	}
	f.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case code != 0:
		fail(w, code, map[int]string{http.StatusForbidden: "Forbidden"}[code])
	case verb == "WATCH":
		f.watch(w, r)
	default:
		f.mu.Lock()
		defer f.mu.Unlock()
		f.answer(w, r, body)
	}
}

func fail(w http.ResponseWriter, code int, reason string) {
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(object{"apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": reason, "code": code, "message": reason})
}

func (f *fakeAPI) answer(w http.ResponseWriter, r *http.Request, body []byte) {
	at := r.URL.Path
	is, found := f.objects[at]
	var sent object
	if r.Method != http.MethodPatch {
		_ = json.Unmarshal(body, &sent)
	}
	switch {
	case r.Method == http.MethodGet && kinds[path.Base(at)] != "":
		_ = json.NewEncoder(w).Encode(f.list(r))
	case r.Method == http.MethodPost && path.Base(at) == "token":
		f.token(w, sent)
	case r.Method == http.MethodPost:
		at = path.Join(at, fmt.Sprint(field(sent, "metadata", "name")))
		if _, found := f.objects[at]; found {
			fail(w, http.StatusConflict, "AlreadyExists")
			return
		}
		_ = json.NewEncoder(w).Encode(f.store(at, sent))
	case r.Method == http.MethodPatch:
		f.patch(w, r, body)
	case !found:
		fail(w, http.StatusNotFound, "NotFound")
	case r.Method == http.MethodPut && field(sent, "metadata", "resourceVersion") != field(is, "metadata", "resourceVersion"):
		fail(w, http.StatusConflict, "Conflict")
	case r.Method == http.MethodPut:
		_ = json.NewEncoder(w).Encode(f.store(at, sent))
	case r.Method == http.MethodDelete && field(sent, "preconditions", "resourceVersion") != field(is, "metadata", "resourceVersion"):
		fail(w, http.StatusConflict, "Conflict")
	case r.Method == http.MethodDelete:
		delete(f.objects, at)
		fallthrough
	default:
		_ = json.NewEncoder(w).Encode(as(r, is))
	}
}

// as returns the object as it is asked for: whole, or its metadata only.
func as(r *http.Request, o object) object {
	if !strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadata") {
		return o
	}
	return object{"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": o["metadata"]}
}

// token makes a token of a service account that is bound to a pod. Its value is
// the mark, the audiences and the pod.
func (f *fakeAPI) token(w http.ResponseWriter, sent object) {
	name, uid := fmt.Sprint(field(sent, "spec", "boundObjectRef", "name")), field(sent, "spec", "boundObjectRef", "uid")
	switch pod := f.objects[pods+name]; {
	case pod == nil:
		fail(w, http.StatusNotFound, "NotFound")
	case field(pod, "metadata", "uid") != uid:
		fail(w, http.StatusConflict, "Conflict")
	default:
		if f.life > 0 {
			sent["spec"].(object)["expirationSeconds"] = f.life
		}
		sent["status"] = object{"token": fmt.Sprint(f.mark, field(sent, "spec", "audiences"), uid), "expirationTimestamp": "2026-11-01T00:00:00Z"}
		_ = json.NewEncoder(w).Encode(sent)
	}
}

// patch applies, merges or replaces, as much as the driver does.
func (f *fakeAPI) patch(w http.ResponseWriter, r *http.Request, body []byte) {
	at, is := r.URL.Path, f.objects[r.URL.Path]
	switch r.Header.Get("Content-Type") {
	case "application/apply-patch+yaml":
		var sent object
		if err := json.Unmarshal(body, &sent); err != nil {
			fail(w, http.StatusBadRequest, "BadRequest")
			return
		}
		manager := r.URL.Query().Get("fieldManager")
		if owner := f.owners[at]; is != nil && owner != manager && r.URL.Query().Get("force") != "true" {
			fail(w, http.StatusConflict, "Conflict")
			return
		}
		f.owners[at] = manager
		_ = json.NewEncoder(w).Encode(f.store(at, sent))
	case "application/json-patch+json":
		var steps []struct {
			Op, Path string
			Value    any
		}
		if json.Unmarshal(body, &steps) != nil || steps[0].Value != field(is, "metadata", "resourceVersion") {
			fail(w, http.StatusUnprocessableEntity, "Invalid")
			return
		}
		spec, _ := is["spec"].(object)
		spec["taints"] = steps[1].Value
		_ = json.NewEncoder(w).Encode(f.store(at, is))
	default: // of events
		var sent object
		_ = json.Unmarshal(body, &sent)
		merged := maps.Clone(is)
		maps.Copy(merged, sent)
		_ = json.NewEncoder(w).Encode(f.store(at, merged))
	}
}

// list returns a collection, less what the selectors leave out.
func (f *fakeAPI) list(r *http.Request) object {
	version, kind := groupVersion.String(), kinds[path.Base(r.URL.Path)]
	if o := as(r, object{}); len(o) > 0 {
		version, kind = fmt.Sprint(o["apiVersion"]), fmt.Sprint(o["kind"])
	}
	items := []object{}
	for _, at := range slices.Sorted(maps.Keys(f.objects)) {
		if strings.Contains(at, "/"+path.Base(r.URL.Path)+"/") && selected(r, f.objects[at]) {
			items = append(items, as(r, f.objects[at]))
		}
	}
	return object{"apiVersion": version, "kind": kind + "List", "metadata": object{"resourceVersion": strconv.Itoa(f.version)}, "items": items}
}

func selected(r *http.Request, o object) bool {
	if name, ok := strings.CutPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name="); ok && name != field(o, "metadata", "name") {
		return false
	}
	key, value, ok := strings.Cut(r.URL.Query().Get("labelSelector"), "=")
	labels, _ := field(o, "metadata", "labels").(object)
	return !ok || labels[key] == value
}

// watch tells of the one object that the field selector names.
func (f *fakeAPI) watch(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Query().Get("fieldSelector"), "metadata.name=")
	at := path.Join(r.URL.Path, name)
	f.mu.Lock()
	was, changed := f.objects[at], f.changed
	f.mu.Unlock()
	initial := r.URL.Query().Get("sendInitialEvents") == "true"
	send := func(kind string, o object) {
		_ = json.NewEncoder(w).Encode(object{"type": kind, "object": as(r, o)})
		w.(http.Flusher).Flush()
	}
	w.(http.Flusher).Flush()
	if initial {
		if was != nil {
			send("ADDED", was)
		}
		send("BOOKMARK", object{"apiVersion": groupVersion.String(), "kind": "SecretProviderClass", "metadata": object{
			"resourceVersion": strconv.Itoa(f.version), "annotations": object{"k8s.io/initial-events-end": "true"},
		}})
	}
	for {
		select {
		case <-f.done:
			return
		case <-r.Context().Done():
			return
		case <-changed:
		}
		f.mu.Lock()
		is := f.objects[at]
		changed = f.changed
		f.mu.Unlock()
		switch {
		case is == nil && was != nil:
			send("DELETED", was)
		case is != nil && was == nil:
			send("ADDED", is)
		case is != nil && field(is, "metadata", "resourceVersion") != field(was, "metadata", "resourceVersion"):
			send("MODIFIED", is)
		}
		was = is
	}
}

// aClass is a class as the API server has it.
func aClass(parameters map[string]string, secretObjects ...object) object {
	return object{
		"apiVersion": groupVersion.String(), "kind": "SecretProviderClass", "metadata": object{"generation": 3},
		"spec": object{"provider": "file", "parameters": parameters, "secretObjects": secretObjects},
	}
}

// A stage is published volumes, and what the driver would tell of them.
type stage struct {
	*fakeAPI
	volumes volume.Memory
}

func newStage(t *testing.T) *stage { return &stage{fakeAPI: newFakeAPI(t)} }

// run runs a part of the driver until the test ends.
func (s *stage) run(run func(done <-chan struct{}) error) {
	done, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- run(done) }()
	s.t.Cleanup(func() {
		close(done)
		if err := <-ended; err != nil {
			s.t.Error(err)
		}
	})
}

// aVolume returns a volume as it is after its first publish.
func aVolume(id string) volume.Record {
	now := time.Now()
	return volume.Record{
		ID: volume.ID(id), Target: "/var/lib/kubelet/pods/u-" + id + "/volumes/kubernetes.io~csi/v/mount", Class: class.Name{Namespace: "ns", Name: "c"},
		Revision: "r1", Provider: "file", Pod: provider.Pod{Namespace: "ns", Name: "p-" + id, UID: "u-" + id, ServiceAccount: "sa"},
		Held:      provider.Held{Versions: provider.Versions{"b": "1", "a": "1"}},
		Published: now, Refreshed: now,
	}
}

// publish notes a volume, and returns the call that published it.
func (s *stage) publish(rec volume.Record, outcome publish.Outcome) Turn {
	s.t.Helper()
	if err := s.volumes.Put(rec); err != nil {
		s.t.Fatal(err)
	}
	return Turn{Volume: rec.ID, Class: rec.Class, Pod: rec.Pod, Result: publish.Result{Outcome: outcome, Record: rec}}
}

// stale notes that a refresh failed, and returns the call.
func (s *stage) stale(rec volume.Record, cause error) Turn {
	s.t.Helper()
	rec.Stale = volume.Staleness{Since: time.Now(), Failures: 1, Reason: publish.Reason(cause), Message: cause.Error()}
	turn := s.publish(rec, "")
	turn.Err = &publish.StaleError{ID: rec.ID, Since: rec.Stale.Since, Err: cause}
	return turn
}

// file returns a file of a bundle.
func file(path, content string) provider.File {
	return provider.File{Path: path, Data: secret.New([]byte(content))}
}
