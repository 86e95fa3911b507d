package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"sigs.k8s.io/yaml"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
)

// A provider answers as its namespaces say.
type provider struct {
	v1alpha1.UnimplementedCSIDriverProviderServer

	mu         sync.Mutex
	namespaces map[string]*namespace
}

// A namespace is what pods of one Kubernetes namespace get, and what they have
// asked for.
type namespace struct {
	Answer answer
	Seen   seen
}

// An answer is what a test decides.
type answer struct {
	Objects   map[string]string // content by name
	Code      codes.Code        // not 0: the call fails with it
	Message   string
	ErrorCode string // the error code of the protocol itself
	Delay     time.Duration
}

// seen is what a test can ask for. It has no secret.
type seen struct {
	Mounts     int
	Attributes []string // their names, of the last call
	Audiences  []string // of the tokens of the last call
	Authority  []string
	Current    map[string]string // versions that the driver said the volume holds
	Permission string
}

// of returns the namespace, which is made if it is new. It needs mu.
func (p *provider) of(name string) *namespace {
	n := p.namespaces[name]
	if n == nil {
		n = &namespace{}
		p.namespaces[name] = n
	}
	return n
}

// Version implements the provider protocol.
func (p *provider) Version(context.Context, *v1alpha1.VersionRequest) (*v1alpha1.VersionResponse, error) {
	return &v1alpha1.VersionResponse{Version: "v1alpha1", RuntimeName: "mockprovider", RuntimeVersion: "1"}, nil
}

// Mount implements the provider protocol.
func (p *provider) Mount(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	var attributes, secrets map[string]string
	if json.Unmarshal([]byte(req.GetAttributes()), &attributes) != nil {
		return nil, status.Error(codes.InvalidArgument, "attributes are no JSON object")
	}
	if json.Unmarshal([]byte(req.GetSecrets()), &secrets) != nil {
		return nil, status.Error(codes.InvalidArgument, "secrets are no JSON object")
	}
	a := p.note(ctx, req, attributes)
	select {
	case <-time.After(a.Delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case a.Code != codes.OK:
		return nil, status.Error(a.Code, a.Message)
	case a.ErrorCode != "":
		return &v1alpha1.MountResponse{Error: &v1alpha1.Error{Code: a.ErrorCode}}, nil
	}
	return respond(attributes["objects"], a.Objects)
}

// note remembers the call and returns what to answer.
func (p *provider) note(ctx context.Context, req *v1alpha1.MountRequest, attributes map[string]string) answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.of(attributes["csi.storage.k8s.io/pod.namespace"])
	n.Seen.Mounts++
	n.Seen.Attributes = slices.Sorted(maps.Keys(attributes))
	n.Seen.Permission = req.GetPermission()
	var tokens map[string]any
	_ = json.Unmarshal([]byte(attributes["csi.storage.k8s.io/serviceAccount.tokens"]), &tokens) // absent without tokenRequests
	n.Seen.Audiences = slices.Sorted(maps.Keys(tokens))
	md, _ := metadata.FromIncomingContext(ctx)
	n.Seen.Authority = md.Get(":authority")
	n.Seen.Current = make(map[string]string)
	for _, o := range req.GetCurrentObjectVersion() {
		n.Seen.Current[o.GetId()] = o.GetVersion()
	}
	return n.Answer
}

// An object is one that a class lists.
type object struct {
	Name    string `json:"objectName"`
	Version string `json:"objectVersion"`
}

// respond returns the objects that a class lists: a YAML list of objects, or
// a map with a list of YAML texts named array, as many providers have it.
func respond(list string, contents map[string]string) (*v1alpha1.MountResponse, error) {
	var objects []object
	var wrapped struct {
		Array []string `json:"array"`
	}
	if yaml.Unmarshal([]byte(list), &wrapped) == nil && len(wrapped.Array) > 0 {
		for _, text := range wrapped.Array {
			var o object
			if err := yaml.Unmarshal([]byte(text), &o); err != nil {
				return nil, status.Error(codes.InvalidArgument, "an element of array is no YAML")
			}
			objects = append(objects, o)
		}
	} else if err := yaml.Unmarshal([]byte(list), &objects); err != nil {
		return nil, status.Error(codes.InvalidArgument, "objects is no YAML list")
	}
	resp := &v1alpha1.MountResponse{}
	for _, o := range objects {
		content, ok := contents[o.Name]
		if !ok {
			return nil, status.Errorf(codes.NotFound, "there is no object %q", o.Name)
		}
		sum := sha256.Sum256([]byte(content))
		resp.ObjectVersion = append(resp.ObjectVersion, &v1alpha1.ObjectVersion{Id: "secret/" + o.Name, Version: hex.EncodeToString(sum[:4])})
		// No mode, as many providers have it: the driver chooses.
		resp.Files = append(resp.Files, &v1alpha1.File{Path: o.Name, Contents: []byte(content)})
	}
	return resp, nil
}

// api serves PUT /NAMESPACE to decide an answer, and GET /NAMESPACE to see
// what was asked.
func (p *provider) api() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("PUT /{namespace}", func(w http.ResponseWriter, r *http.Request) {
		var a answer
		if json.NewDecoder(r.Body).Decode(&a) != nil {
			http.Error(w, "not an answer", http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.of(r.PathValue("namespace")).Answer = a
	})
	mux.HandleFunc("GET /{namespace}", func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = json.NewEncoder(w).Encode(p.of(r.PathValue("namespace")).Seen)
	})
	return mux
}
