package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
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
	Audience  *string // of a token without which the call is refused
}

// seen is what a test can ask for. It has no secret.
type seen struct {
	Mounts     int
	Attributes []string // their names, of the last call
	Audiences  []string // of the tokens of the last call
	BoundTo    string   // UID of the pod to which the token is bound that the answer wants
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
	var tokens map[string]struct{ Token string }
	_ = json.Unmarshal([]byte(attributes["csi.storage.k8s.io/serviceAccount.tokens"]), &tokens) // absent without tokenRequests
	a := p.note(ctx, req, attributes, slices.Sorted(maps.Keys(tokens)))
	select {
	case <-time.After(a.Delay):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	switch {
	case a.Code != codes.OK:
		return nil, status.Error(a.Code, a.Message)
	case a.Audience != nil && !p.noteToken(attributes["csi.storage.k8s.io/pod.namespace"], tokens[*a.Audience].Token):
		_ = grpc.SetTrailer(ctx, metadata.Pairs("keymount-missing-audience-bin", *a.Audience))
		return nil, status.Errorf(codes.PermissionDenied, "there is no token of audience %q", *a.Audience)
	case a.ErrorCode != "":
		return &v1alpha1.MountResponse{Error: &v1alpha1.Error{Code: a.ErrorCode}}, nil
	}
	return respond(attributes["objects"], a.Objects)
}

// note remembers the call and returns what to answer.
func (p *provider) note(ctx context.Context, req *v1alpha1.MountRequest, attributes map[string]string, audiences []string) answer {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.of(attributes["csi.storage.k8s.io/pod.namespace"])
	n.Seen.Mounts++
	n.Seen.Attributes = slices.Sorted(maps.Keys(attributes))
	n.Seen.Permission = req.GetPermission()
	n.Seen.Audiences = audiences
	md, _ := metadata.FromIncomingContext(ctx)
	n.Seen.Authority = md.Get(":authority")
	n.Seen.Current = make(map[string]string)
	for _, o := range req.GetCurrentObjectVersion() {
		n.Seen.Current[o.GetId()] = o.GetVersion()
	}
	return n.Answer
}

// noteToken remembers to which pod a token is bound, and reports whether it is
// one.
func (p *provider) noteToken(namespace, token string) bool {
	var claims struct {
		Kubernetes struct {
			Pod struct{ UID string }
		} `json:"kubernetes.io"`
	}
	sections := strings.Split(token, ".")
	if len(sections) != 3 {
		return false
	}
	text, err := base64.RawURLEncoding.DecodeString(sections[1])
	if err != nil || json.Unmarshal(text, &claims) != nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.of(namespace).Seen.BoundTo = claims.Kubernetes.Pod.UID
	return true
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
