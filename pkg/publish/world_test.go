package publish_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/tmpfs"
	"github.com/keymount/keymount/pkg/tmpfs/userns"
	"github.com/keymount/keymount/pkg/volume"
)

func TestMain(m *testing.M) { os.Exit(userns.Main(m)) }

// A world is a publish.Service on real mounts with a store in memory, and a
// switch for every way in which what it depends on can fail.
type world struct {
	t       *testing.T
	store   *providertest.Fake
	volumes *volume.Memory
	mounts  *tmpfs.Mounter
	config  publish.Config
	service *publish.Service
	target  string

	mu      sync.Mutex
	class   *class.Class
	faults  map[string]error  // step -> what it returns
	effects map[string]func() // step -> what happens during it
	asked   []*provider.Request
}

// The steps at which a dependency may fail.
const (
	stepClass   = "class"
	stepLookup  = "lookup"
	stepFetch   = "fetch"
	stepReply   = "reply"
	stepMounted = "mounted"
	stepMount   = "mount"
	stepOpen    = "open"
	stepUnmount = "unmount"
	stepPut     = "put"
	stepDelete  = "delete"
)

var errFault = errors.New("injected fault")

func newWorld(t *testing.T) *world {
	t.Helper()
	mounts, err := tmpfs.New()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, store: &providertest.Fake{}, volumes: &volume.Memory{}, mounts: mounts,
		target: filepath.Join(t.TempDir(), "pods", "uid", "volumes", "kubernetes.io~csi", "secrets", "mount"),
		faults: map[string]error{}, effects: map[string]func(){},
	}
	w.store.Put("password", []byte("first"))
	w.asks(providertest.Object{Name: "password"})
	w.config = publish.Config{
		Classes: worldClasses{w}, Providers: w.lookup, Mounts: worldMounts{w}, Volumes: worldVolumes{w, w.volumes},
		Schedule: &publish.Schedule{Interval: 2 * time.Minute, Node: "n"},
		Limits:   tmpfs.Options{Size: 1 << 20, Inodes: 1024},
	}
	w.service = publish.New(w.config)
	t.Cleanup(func() {
		w.repair()
		if err := mounts.Unmount(w.target); err != nil {
			t.Errorf("clean up: %v", err)
		}
		w.service.Close()
	})
	return w
}

// asks makes the class ask for other objects.
func (w *world) asks(objects ...providertest.Object) {
	w.mu.Lock()
	defer w.mu.Unlock()
	parameters := w.store.Request(objects...).Parameters
	w.class = &class.Class{
		Name: class.Name{Namespace: "shop", Name: "db"}, Revision: fmt.Sprint(parameters),
		Provider: "fake", Parameters: parameters,
	}
}

// sets changes one parameter of the class.
func (w *world) sets(key, value string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	c := *w.class
	c.Parameters = maps.Clone(c.Parameters)
	c.Parameters[key] = value
	c.Revision += key + value
	w.class = &c
}

func (w *world) breaks(step string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults[step] = err
}

func (w *world) during(step string, effect func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.effects[step] = effect
}

func (w *world) repair() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.faults)
	clear(w.effects)
}

// step lets the effect of a step happen once, and returns its fault.
func (w *world) step(name string) error {
	w.mu.Lock()
	effect, err := w.effects[name], w.faults[name]
	delete(w.effects, name)
	w.mu.Unlock()
	if effect != nil {
		effect()
	}
	return err
}

// volume is what kubelet asks for.
func (w *world) volume() volume.Volume {
	return volume.Volume{
		ID: "csi-1", Target: w.target,
		Class: class.Name{Namespace: "shop", Name: "db"},
		Pod:   provider.Pod{Namespace: "shop", Name: "web-0", UID: "uid", ServiceAccount: "web"},
		Attributes: map[string]string{
			"secretProviderClass": "db", "csi.storage.k8s.io/pod.name": "web-0", "csi.storage.k8s.io/ephemeral": "true",
		},
	}
}

func (w *world) publish() (publish.Result, error) {
	return w.service.Publish(w.t.Context(), w.volume())
}

// mustPublish publishes without a fault.
func (w *world) mustPublish() publish.Result {
	w.t.Helper()
	res, err := w.publish()
	if err != nil {
		w.t.Fatalf("publish: %v", err)
	}
	return res
}

// makeDue lets the schedule of the volume arrive.
func (w *world) makeDue() {
	w.t.Helper()
	rec, ok := w.volumes.Get("csi-1")
	if !ok {
		w.t.Fatal("no record")
	}
	rec.Due = time.Now().Add(-time.Second)
	if err := w.volumes.Put(rec); err != nil {
		w.t.Fatal(err)
	}
}

// files returns the visible files of the volume: path -> content.
func (w *world) files() map[string]string {
	w.t.Helper()
	found := map[string]string{}
	entries, err := os.ReadDir(w.target)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		root := filepath.Join(w.target, e.Name())
		resolved, err := filepath.EvalSymlinks(root)
		if err != nil {
			w.t.Fatal(err)
		}
		err = filepath.WalkDir(resolved, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, _ := filepath.Rel(resolved, path)
			content, err := os.ReadFile(path)
			found[filepath.Join(e.Name(), rel)] = string(content)
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
	return found
}

func (w *world) mustHold(want map[string]string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.files()); diff != "" {
		w.t.Errorf("files in the volume (-want +got):\n%s", diff)
	}
}

// mustBeGone checks that nothing is left of the volume.
func (w *world) mustBeGone() {
	w.t.Helper()
	if mount, err := w.mounts.Mounted(w.target); mount != 0 || err != nil {
		w.t.Errorf("Mounted = %v, %v; want nothing mounted", mount, err)
	}
	if _, err := os.Lstat(w.target); !errors.Is(err, fs.ErrNotExist) {
		w.t.Errorf("the target directory is left: %v", err)
	}
	if records := w.volumes.List(); len(records) != 0 {
		w.t.Errorf("%d records are left", len(records))
	}
}

// mustBePublished checks that the volume is mounted and known.
func (w *world) mustBePublished() {
	w.t.Helper()
	rec, ok := w.volumes.Get("csi-1")
	if !ok {
		w.t.Fatal("no record")
	}
	if mount, err := w.mounts.Mounted(w.target); err != nil || mount == 0 || mount != rec.Mount {
		w.t.Errorf("Mounted = %v, %v; the record says %v", mount, err, rec.Mount)
	}
}

type worldClasses struct{ w *world }

func (c worldClasses) Class(_ context.Context, name class.Name) (*class.Class, error) {
	if err := c.w.step(stepClass); err != nil {
		return nil, err
	}
	c.w.mu.Lock()
	defer c.w.mu.Unlock()
	if c.w.class == nil || c.w.class.Name != name {
		return nil, class.ErrNotFound
	}
	return c.w.class, nil
}

func (worldClasses) Changes(ctx context.Context, _ func(class.Name)) error {
	<-ctx.Done()
	return nil
}

func (w *world) lookup(string) (provider.Provider, error) {
	return worldProvider{w}, w.step(stepLookup)
}

type worldProvider struct{ w *world }

func (p worldProvider) Unwrap() provider.Provider { return p.w.store }

func (p worldProvider) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	p.w.mu.Lock()
	p.w.asked = append(p.w.asked, req)
	p.w.mu.Unlock()
	if err := p.w.step(stepFetch); err != nil {
		return nil, err
	}
	bundle, err := p.w.store.Fetch(ctx, req)
	if err != nil {
		return nil, err
	}
	switch err := p.w.step(stepReply); {
	case errors.Is(err, errNoVersions):
		bundle.Versions = nil
	case errors.Is(err, errEscape):
		bundle.Unchanged = false
		bundle.Files = []provider.File{{Path: "../escape", Mode: 0o644, Data: secret.New([]byte("x"))}}
	case errors.Is(err, errTooBig):
		bundle.Unchanged = false
		bundle.Files = []provider.File{{Path: "big", Mode: 0o644, Data: secret.New(make([]byte, 2<<20))}}
	case errors.Is(err, errNoBundle):
		return nil, nil
	}
	return bundle, nil
}

// What a provider's reply may have wrong.
var (
	errNoVersions = errors.New("no versions")
	errEscape     = errors.New("a path that escapes")
	errTooBig     = errors.New("too big for the volume")
	errNoBundle   = errors.New("neither bundle nor error")
)

type worldMounts struct{ w *world }

func (m worldMounts) Mounted(target string) (uint64, error) {
	if err := m.w.step(stepMounted); err != nil {
		return 0, err
	}
	return m.w.mounts.Mounted(target)
}

func (m worldMounts) Mount(target string, o tmpfs.Options) (id uint64, kept bool, err error) {
	if err := m.w.step(stepMount); err != nil {
		return 0, false, err
	}
	return m.w.mounts.Mount(target, o)
}

func (m worldMounts) Open(target string, id uint64) (*os.File, error) {
	if err := m.w.step(stepOpen); err != nil {
		return nil, err
	}
	return m.w.mounts.Open(target, id)
}

func (m worldMounts) Unmount(target string) error {
	if err := m.w.step(stepUnmount); err != nil {
		return err
	}
	return m.w.mounts.Unmount(target)
}

type worldVolumes struct {
	w *world
	volume.Store
}

func (v worldVolumes) Put(rec volume.Record) error {
	if err := v.w.step(stepPut); err != nil {
		return err
	}
	return v.Store.Put(rec)
}

func (v worldVolumes) Delete(id volume.ID) error {
	if err := v.w.step(stepDelete); err != nil {
		return err
	}
	return v.Store.Delete(id)
}
