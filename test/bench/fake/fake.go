// Package fake is a provider plugin as others write them for the Secrets Store
// CSI driver: it knows the v1alpha1 protocol, and nothing of the driver that
// asks. Parameters of a class say how many files it returns and how long a
// store would take. It counts what it is asked, and changes all secrets at
// once when it is told to.
package fake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
)

// Command as the first argument makes a program call Serve with the next two.
const Command = "serve-fake-provider"

// The parameters of a class.
const (
	Files   = "files"   // how many
	Latency = "latency" // of the store, as time.ParseDuration reads it
)

// Stats are what the provider was asked so far.
type Stats struct {
	Generation int            // of all secrets
	Mounts     int            // calls that wanted files
	Asked      map[string]Ask // by pod
}

// An Ask is the first call of a pod that got a generation.
type Ask struct {
	Generation int
	At         time.Time
}

type provider struct {
	v1alpha1.UnimplementedCSIDriverProviderServer

	size int
	mu   sync.Mutex
	now  Stats
}

func newProvider(size int) *provider {
	return &provider{size: size, now: Stats{Asked: make(map[string]Ask)}}
}

// Version implements the provider protocol.
func (p *provider) Version(context.Context, *v1alpha1.VersionRequest) (*v1alpha1.VersionResponse, error) {
	return &v1alpha1.VersionResponse{Version: "v1alpha1", RuntimeName: "fake", RuntimeVersion: "1"}, nil
}

// Mount implements the provider protocol.
func (p *provider) Mount(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	var attributes map[string]string
	if err := json.Unmarshal([]byte(req.GetAttributes()), &attributes); err != nil {
		return nil, status.Error(codes.InvalidArgument, "attributes are no JSON object")
	}
	files, errFiles := strconv.Atoi(attributes[Files])
	latency, errLatency := time.ParseDuration(attributes[Latency])
	if err := errors.Join(errFiles, errLatency); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	generation := p.note(attributes["csi.storage.k8s.io/pod.name"])
	if latency > 0 {
		select {
		case <-time.After(latency):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return p.answer(files, generation), nil
}

// note remembers a call and returns the generation to answer with.
func (p *provider) note(pod string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now.Mounts++
	if last, ok := p.now.Asked[pod]; !ok || last.Generation != p.now.Generation {
		p.now.Asked[pod] = Ask{p.now.Generation, time.Now()}
	}
	return p.now.Generation
}

func (p *provider) answer(files, generation int) *v1alpha1.MountResponse {
	resp := &v1alpha1.MountResponse{}
	content := bytes.Repeat([]byte{byte('a' + generation%26)}, p.size)
	for i := range files {
		name := fmt.Sprintf("secret-%02d", i)
		resp.Files = append(resp.Files, &v1alpha1.File{Path: name, Contents: content, Mode: 0o644})
		resp.ObjectVersion = append(resp.ObjectVersion, &v1alpha1.ObjectVersion{Id: name, Version: strconv.Itoa(generation)})
	}
	return resp
}

// control serves GET /stats, and POST /turn to start a new generation.
func (p *provider) control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /turn", func(http.ResponseWriter, *http.Request) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.now.Generation++
	})
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, _ *http.Request) {
		p.mu.Lock()
		now := p.now
		now.Asked = maps.Clone(now.Asked)
		p.mu.Unlock()
		_ = json.NewEncoder(w).Encode(now) // whoever asked has gone
	})
	return mux
}

// Serve serves a provider of files of that size on one socket, and its control
// on another, until a signal ends it.
func Serve(socket, control string, size int) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return serve(ctx, socket, control, size)
}

func serve(ctx context.Context, socket, control string, size int) error {
	p := newProvider(size)
	plugins, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	controls, err := net.Listen("unix", control)
	if err != nil {
		return errors.Join(err, plugins.Close())
	}
	plugin := grpc.NewServer()
	v1alpha1.RegisterCSIDriverProviderServer(plugin, p)
	front := &http.Server{Handler: p.control(), ReadHeaderTimeout: time.Minute}
	ended := make(chan error, 2)
	go func() { ended <- plugin.Serve(plugins) }()
	go func() { ended <- front.Serve(controls) }()
	select {
	case err = <-ended:
	case <-ctx.Done():
	}
	plugin.Stop()
	return errors.Join(err, front.Close())
}

// A Control is the other end of a provider's control socket.
type Control struct{ client *http.Client }

// Dial returns the control of the provider at a socket.
func Dial(socket string) *Control { return &Control{Over(socket)} }

// Over returns a client of whatever serves HTTP on a unix socket.
func Over(socket string) *http.Client {
	var dialer net.Dialer
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", socket)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial}}
}

// Turn changes all secrets.
func (c *Control) Turn(ctx context.Context) error { return c.call(ctx, http.MethodPost, "/turn", nil) }

// Stats returns what the provider was asked so far.
func (c *Control) Stats(ctx context.Context) (s Stats, err error) {
	return s, c.call(ctx, http.MethodGet, "/stats", &s)
}

func (c *Control) call(ctx context.Context, method, path string, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://provider"+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return fmt.Errorf("control the fake provider: %w", err)
	}
	defer func() { _ = resp.Body.Close() }()
	switch {
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("control the fake provider: %s %s: %s", method, path, resp.Status)
	case answer == nil:
		return nil
	default:
		return json.NewDecoder(resp.Body).Decode(answer)
	}
}
