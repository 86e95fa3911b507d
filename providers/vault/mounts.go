package vault

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// A kind says what may be assumed of the answers of a read.
type kind int

const (
	unknown   kind = iota // the server does not tell
	plain                 // a value that stays until somebody changes it
	versioned             // the same, and it has a number: version 2 of the key-value engine
	generated             // made for who asks: leased, or a certificate
)

// kinds are those of the engines that the server mounts, by type. What is not
// here may lease what it answers.
var kinds = map[string]kind{
	"kv": plain, "generic": plain, "cubbyhole": plain, "transit": plain, "identity": plain, "system": plain, "totp": plain,
}

// A mount is a part of the server's tree that one engine answers for.
type mount struct {
	path  string // with a slash at the end
	kind  kind
	until time.Time // when to ask again
}

const (
	mountLife = time.Hour // an engine that is upgraded to version 2 is noticed after that
	maxMounts = 256
)

// mounts remembers what is mounted where. That is no secret, so that one
// identity may know it from another.
type mounts struct {
	mu    sync.Mutex
	known map[string][]mount // by namespace
}

// find returns the mount of a path, if it is known.
func (m *mounts) find(namespace, path string, now time.Time) (mount, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, known := range m.known[namespace] {
		if strings.HasPrefix(path, known.path) && now.Before(known.until) {
			return known, true
		}
	}
	return mount{}, false
}

func (m *mounts) add(namespace string, fresh mount) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil || len(m.known) >= maxMounts {
		m.known = make(map[string][]mount)
	}
	kept := m.known[namespace][:0:0]
	for _, old := range m.known[namespace] {
		if old.path != fresh.path && len(kept) < maxMounts {
			kept = append(kept, old)
		}
	}
	m.known[namespace] = append(kept, fresh)
}

// mount returns the mount that answers a read. A server that does not say, to
// this identity, leaves it unknown: the read itself will tell why.
func (f *fetch) mount(ctx context.Context, r *read) (mount, error) {
	known := &f.conn.mounts
	if m, ok := known.find(f.namespace, r.path, time.Now()); ok {
		return m, nil
	}
	response, err := f.do(ctx, call{method: http.MethodGet, path: "sys/internal/ui/mounts/" + r.path})
	if code := status(err); code >= 400 && code < 500 && code != http.StatusTooManyRequests {
		return mount{}, nil
	}
	if err != nil {
		return mount{}, err
	}
	m, ok := parseMount(response)
	if ok && strings.HasPrefix(r.path, m.path) {
		m.until = time.Now().Add(mountLife)
		known.add(f.namespace, m)
	}
	return m, nil
}

// parseMount reads what the server says of a mount.
func parseMount(r *response) (mount, bool) {
	var body struct {
		Data struct {
			Path    string          `json:"path"`
			Type    string          `json:"type"`
			Options json.RawMessage `json:"options"`
		} `json:"data"`
	}
	if r.empty() || r.decode(&body) != nil || body.Data.Path == "" {
		return mount{}, false
	}
	var options struct {
		Version string `json:"version"`
	}
	_ = json.Unmarshal(body.Data.Options, &options) // null where there are none
	m := mount{path: strings.TrimPrefix(body.Data.Path, "/"), kind: generated}
	if known, ok := kinds[body.Data.Type]; ok {
		m.kind = known
	}
	if body.Data.Type == "kv" && options.Version == "2" {
		m.kind = versioned
	}
	return m, true
}

// metadata returns where the server tells the version of a read, if it does.
func (m mount) metadata(r *read) (path string, ok bool) {
	rest, isData := strings.CutPrefix(r.path, m.path+"data/")
	if m.kind != versioned || !isData || !r.simple() {
		return "", false
	}
	return m.path + "metadata/" + rest, true
}

// levels are the parts of the tree of version 2 of the key-value engine.
var levels = []string{"data", "metadata", "delete", "undelete", "destroy", "subkeys", "detailed-metadata", "config"}

// misses reports whether the read leaves out the part of the tree that version
// 2 of the key-value engine wants.
func (m mount) misses(r *read) bool {
	rest, ok := strings.CutPrefix(r.path, m.path)
	level, _, _ := strings.Cut(rest, "/")
	return ok && m.kind == versioned && !slices.Contains(levels, level)
}
