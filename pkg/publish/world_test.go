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
	notes   *volume.Memory // of leases that are to be given back
	mounts  *tmpfs.Mounter
	config  publish.Config
	service *publish.Service
	target  string

	mu      sync.Mutex
	class   *class.Class
	faults  map[string]error  // step -> what it returns
	effects map[string]func() // step -> what happens during it
	asked   []*provider.Request
	lost    []error // leases that could not be given back

	replaced int // leases that were alive: the store ends them

	steps  int    // until the driver is killed; 0: it is not
	killed string // the step before which it was
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
	stepNote    = "note"
	stepDrop    = "drop"
	stepRelease = "release"
)

var (
	errFault  = errors.New("injected fault")
	errKilled = errors.New("the driver does nothing any more")
)

func newWorld(t *testing.T) *world {
	t.Helper()
	mounts, err := tmpfs.New()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{
		t: t, store: &providertest.Fake{}, volumes: &volume.Memory{}, notes: &volume.Memory{}, mounts: mounts,
		target: filepath.Join(t.TempDir(), "pods", "uid", "volumes", "kubernetes.io~csi", "secrets", "mount"),
		faults: map[string]error{}, effects: map[string]func(){},
	}
	w.store.Put("password", []byte("first"))
	w.asks(providertest.Object{Name: "password"})
	w.config = publish.Config{
		Classes: worldClasses{w}, Providers: w.lookup, Mounts: worldMounts{w}, Volumes: worldVolumes{w, w.volumes, stepPut, stepDelete},
		Releases: worldVolumes{w, w.notes, stepNote, stepDrop}, Lost: w.lose,
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

// kill lets the driver take so many steps less one, and none after.
func (w *world) kill(steps int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps = steps
}

func (w *world) repair() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps, w.killed = 0, ""
	clear(w.faults)
	clear(w.effects)
}

// step lets the effect of a step happen once, and returns its fault.
func (w *world) step(name string) error {
	w.mu.Lock()
	effect, err := w.effects[name], w.faults[name]
	delete(w.effects, name)
	if w.steps > 1 {
		w.steps--
	} else if w.steps == 1 {
		err = errKilled
		if w.killed == "" {
			w.killed = name
		}
	}
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

func (p worldProvider) Release(ctx context.Context, lease provider.Lease) error {
	if err := p.w.step(stepRelease); err != nil {
		return err
	}
	return p.w.store.Release(ctx, lease)
}

func (p worldProvider) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	p.w.mu.Lock()
	p.w.asked = append(p.w.asked, req)
	p.w.mu.Unlock()
	switch err := p.w.step(stepFetch); {
	case errors.Is(err, errAnew):
		anew := *req
		anew.Held, req = provider.Held{}, &anew
		p.w.replaced++
	case err != nil:
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
	errAnew       = errors.New("the provider issues a lease anew while the old one lives") // of a fetch
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
	put, delete string // steps
}

func (v worldVolumes) Put(rec volume.Record) error {
	if err := v.w.step(v.put); err != nil {
		return err
	}
	return v.Store.Put(rec)
}

func (v worldVolumes) Delete(id volume.ID) error {
	if err := v.w.step(v.delete); err != nil {
		return err
	}
	return v.Store.Delete(id)
}

// mustTellOf checks which failure to give a lease back was told of.
func (w *world) mustTellOf(want error) {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := errors.Join(w.lost...); len(w.lost) > 1 || !errors.Is(got, want) {
		w.t.Errorf("told of %d failures, %v, want %v once", len(w.lost), got, want)
	}
}

func (w *world) lose(_ volume.Record, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost = append(w.lost, err)
}

// leases makes the class ask for leased credentials, which live for a day.
func (w *world) leases() {
	w.asks()
	w.sets(providertest.ParameterLease, "role")
	w.store.LeaseFor(24 * time.Hour)
}

// mustLease checks how many leases there are at the store, and that nothing is
// left to do about others.
func (w *world) mustLease(want int) {
	w.t.Helper()
	if got := w.store.Leases(); got != want {
		w.t.Errorf("%d leases at the store, want %d", got, want)
	}
	if notes := w.notes.List(); len(notes) != 0 {
		w.t.Errorf("%d notes of leases are left", len(notes))
	}
}

// mustWork checks that the pod has the credentials of the lease that its
// volume holds, and that this one is alive.
func (w *world) mustWork() {
	w.t.Helper()
	rec, ok := w.volumes.Get("csi-1")
	if !ok {
		w.t.Fatal("no record")
	}
	bundle, err := w.store.Fetch(w.t.Context(), &provider.Request{Parameters: w.class.Parameters, Held: provider.Held{Lease: rec.Held.Lease}})
	if err != nil {
		w.t.Fatal(err)
	}
	if bundle.Lease.ID != rec.Held.Lease.ID {
		_ = w.store.Release(w.t.Context(), bundle.Lease)
		w.t.Errorf("the lease %q of the volume is not alive", rec.Held.Lease.ID)
		return
	}
	w.mustHold(map[string]string{"role": string(bundle.Files[0].Data.Reveal())})
}

// restart replaces the driver.
func (w *world) restart() {
	w.t.Helper()
	w.service.Close()
	w.repair()
	w.service = publish.New(w.config)
	if err := w.service.Reconcile(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) unpublish() error {
	return w.service.Unpublish(w.t.Context(), "csi-1", w.target)
}
