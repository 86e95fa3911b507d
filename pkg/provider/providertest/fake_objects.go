package providertest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// A FakeObject is one entry of Fake's parameter "objects".
type FakeObject struct {
	Name     string `json:"name"`
	File     string `json:"file,omitempty"` // empty means name
	Mode     string `json:"mode,omitempty"` // octal; empty means the mode of the request
	Optional bool   `json:"optional,omitempty"`
}

// Request returns a new request for objects, made by one and the same pod.
func (f *Fake) Request(objects ...Object) *provider.Request {
	entries := make([]FakeObject, 0, len(objects))
	for _, o := range objects {
		entry := FakeObject{Name: o.Name, File: o.File, Optional: o.Optional}
		if o.Mode != 0 {
			entry.Mode = strconv.FormatUint(uint64(o.Mode.Perm()), 8)
		}
		entries = append(entries, entry)
	}
	text, _ := yaml.Marshal(entries) // strings and booleans: cannot fail
	return &provider.Request{
		Class:      "default/fake",
		Parameters: map[string]string{ParameterObjects: string(text)},
		Pod:        provider.Pod{Namespace: "default", Name: "pod", UID: "3a7bd3e2-360a-4f0a-9d3c-2f6d1c2a9b10", ServiceAccount: "default"},
		Mode:       0o644,
	}
}

// parseObjects returns the objects that req asks for, once it has found
// nothing wrong with them.
func parseObjects(req *provider.Request) ([]Object, error) {
	var entries []FakeObject
	if err := yaml.UnmarshalStrict([]byte(req.Parameters[ParameterObjects]), &entries); err != nil {
		return nil, fmt.Errorf("parameter %q is not a list of objects with name, file, mode, optional: %w", ParameterObjects, provider.ErrInvalid)
	}
	objects := make([]Object, 0, len(entries))
	for _, entry := range entries {
		mode, err := parseMode(entry.Mode)
		if err != nil {
			return nil, fmt.Errorf("object %q: %w", entry.Name, err)
		}
		objects = append(objects, Object{Name: entry.Name, File: entry.File, Mode: mode, Optional: entry.Optional})
	}
	return objects, checkFiles(objects, req.Parameters[ParameterLease])
}

func parseMode(text string) (fs.FileMode, error) {
	if text == "" {
		return 0, nil
	}
	mode, err := strconv.ParseUint(text, 8, 32)
	if err != nil || fs.FileMode(mode)&^fs.ModePerm != 0 {
		return 0, fmt.Errorf("mode %q is not an octal number up to 777: %w", text, provider.ErrInvalid)
	}
	return fs.FileMode(mode), nil
}

// checkFiles returns an error that wraps provider.ErrInvalid unless the files
// of the objects and of the role can stand together in one volume.
func checkFiles(objects []Object, role string) error {
	plan := provider.Bundle{Versions: provider.Versions{"planned": ""}}
	for _, o := range objects {
		plan.Files = append(plan.Files, provider.File{Path: o.path()})
	}
	if role != "" {
		plan.Files = append(plan.Files, provider.File{Path: role})
	}
	if len(plan.Files) == 0 {
		return fmt.Errorf("parameters %q and %q ask for nothing: %w", ParameterObjects, ParameterLease, provider.ErrInvalid)
	}
	if err := plan.Validate(); err != nil {
		return fmt.Errorf("%w: %w", provider.ErrInvalid, err)
	}
	return nil
}

// read returns the bundle of all objects. The caller holds f.mu.
func (f *Fake) read(objects []Object, req *provider.Request) (*provider.Bundle, error) {
	bundle := &provider.Bundle{Versions: provider.Versions{}}
	for _, o := range objects {
		value, ok := f.objects[o.Name]
		switch {
		case f.denied[o.Name]:
			return nil, fmt.Errorf("object %q: %w", o.Name, provider.ErrDenied)
		case !ok && o.Optional:
			bundle.Versions[o.Name] = "absent"
			continue
		case !ok:
			return nil, fmt.Errorf("object %q: %w", o.Name, provider.ErrNotFound)
		}
		mode := o.Mode
		if mode == 0 {
			mode = req.Mode
		}
		bundle.Files = append(bundle.Files, provider.File{Path: o.path(), Mode: mode, Data: secret.New(bytes.Clone(value))})
		bundle.Versions[o.Name] = f.version(o.Name, value)
		if f.expired[o.Name] {
			message := fmt.Sprintf("object %q, version %s, has expired", o.Name, bundle.Versions[o.Name])
			bundle.Warnings = append(bundle.Warnings, provider.Warning{Reason: provider.Expired, Message: message})
		}
	}
	return bundle, nil
}

// lease adds credentials for role to the bundle: those of the lease that is
// held if it is alive, else new ones. The caller holds f.mu.
func (f *Fake) lease(bundle *provider.Bundle, role string, held provider.Lease) {
	now, ttl := time.Now(), f.leaseTTL
	if ttl == 0 {
		ttl = time.Hour
	}
	id := held.ID
	lease, ok := f.leases[id]
	if !ok || !now.Before(lease.expires) {
		f.issued++
		id = fmt.Sprintf("%s/%d", role, f.issued)
		lease = &fakeLease{credentials: []byte(rand.Text())}
		if f.leases == nil {
			f.leases = map[string]*fakeLease{}
		}
		f.leases[id] = lease
	}
	lease.expires = now.Add(ttl)
	bundle.Lease = provider.Lease{ID: id, Expires: lease.expires}
	bundle.Files = append(bundle.Files, provider.File{Path: role, Mode: 0o600, Data: secret.New(bytes.Clone(lease.credentials))})
	bundle.Versions[role] = f.version(id, lease.credentials)
}
