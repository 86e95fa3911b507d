package vaulttest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// An engine answers the calls below its mount. The server's lock is held.
type engine interface {
	serve(c *call) *answer
}

// A mount is an engine at its place.
type mount struct {
	engine
	path, kind     string // path ends in a slash
	options        map[string]string
	accessor, uuid string
}

// A Namespace has mounts, and tokens and secrets of its own. Its methods make
// a mount at the path, or return the one that is there.
type Namespace struct {
	t      testing.TB
	server *Server
	path   string // "", or "team/"
	id     string // ends the ids of its tokens and leases; "" for the root namespace
	mounts map[string]*mount
	auths  map[string]*mount // below auth/
}

func newNamespace(t testing.TB, s *Server, path string) *Namespace {
	n := &Namespace{t: t, server: s, path: path, mounts: map[string]*mount{}, auths: map[string]*mount{}}
	if path != "" {
		n.id = "." + random(6)
	}
	n.mounts["sys/"] = newMount("sys/", "system", nil, sys{s})
	n.auths["token/"] = newMount("token/", "token", nil, selfService{s})
	return n
}

func newMount(path, kind string, options map[string]string, e engine) *mount {
	return &mount{engine: e, path: path, kind: kind, options: options, accessor: kind + "_" + random(8), uuid: uuid()}
}

// display begins the display names of tokens that an auth mount makes.
func (n *Namespace) display(mount string) string {
	if n.path != "" {
		mount = n.path + "auth/" + mount
	}
	return strings.ReplaceAll(mount, "/", "-")
}

// In returns the namespace below this one, which need not exist before.
func (n *Namespace) In(name string) *Namespace {
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	below := n
	for part := range strings.SplitSeq(strings.Trim(name, "/"), "/") {
		path := below.path + part + "/"
		if n.server.namespaces[path] == nil {
			n.server.namespaces[path] = newNamespace(n.t, n.server, path)
		}
		below = n.server.namespaces[path]
	}
	return below
}

// Unmount removes a secrets engine, with all that it holds.
func (n *Namespace) Unmount(path string) {
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	path = strings.Trim(path, "/") + "/"
	n.server.revokeLeases(func(l *lease) bool { return l.ns == n && strings.HasPrefix(l.id, path) })
	delete(n.mounts, path)
}

// mounted returns the engine at the path of table, which create makes if the
// path is free.
func mounted[E engine](n *Namespace, table map[string]*mount, kind, path string, create func() E) E {
	n.t.Helper()
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	path = strings.Trim(path, "/") + "/"
	if table[path] == nil {
		table[path] = newMount(path, kind, map[string]string{}, create())
	}
	e, ok := table[path].engine.(E)
	if !ok || table[path].kind != kind {
		n.t.Fatalf("vaulttest: %s%s is a mount of type %s", n.path, path, table[path].kind)
	}
	return e
}

// resolve returns the namespace that the header and the path name together,
// and takes the namespace off the path.
func (s *Server) resolve(header string, path *string) *Namespace {
	name := ""
	if header = strings.Trim(header, "/"); header != "" {
		name = header + "/"
	}
	n := s.namespaces[name]
	for n != nil {
		part, rest, ok := strings.Cut(*path, "/")
		if !ok || s.namespaces[n.path+part+"/"] == nil {
			return n
		}
		n, *path = s.namespaces[n.path+part+"/"], rest
	}
	return nil
}

// route gives the call to the engine that it is for.
func (s *Server) route(c *call) *answer {
	m, below := c.ns.mountOf(c.full)
	c.path = below
	if m == nil || !openTo(m, c) {
		if a := s.authorize(c); a != nil {
			return a
		}
	}
	if m == nil {
		return refused(http.StatusNotFound, fmt.Sprintf("no handler for route %q. route entry not found.", c.full))
	}
	return m.serve(c)
}

// openTo reports whether the mount answers without a token.
func openTo(m *mount, c *call) bool {
	open, ok := m.engine.(interface{ open(path string) bool })
	if ok && open.open(c.path) {
		c.token = nil
		return true
	}
	return false
}

// mountOf returns the mount with the longest path, and the path below it.
func (n *Namespace) mountOf(path string) (*mount, string) {
	table := n.mounts
	if rest, ok := strings.CutPrefix(path, "auth/"); ok {
		table, path = n.auths, rest
	}
	var best *mount
	for at, m := range table {
		if strings.HasPrefix(path+"/", at) && (best == nil || len(at) > len(best.path)) {
			best = m
		}
	}
	if best == nil {
		return nil, ""
	}
	return best, strings.TrimPrefix(strings.TrimPrefix(path, strings.TrimSuffix(best.path, "/")), "/")
}

// describe is a mount as sys/internal/ui/mounts shows it.
func (m *mount) describe() fields {
	f := fields{
		"accessor": m.accessor, "uuid": m.uuid, "type": m.kind, "description": "", "local": false, "seal_wrap": m.kind == "system",
		"external_entropy_access": false, "options": m.options, "plugin_version": "", "running_plugin_version": "v" + version + "+builtin.bao", "running_sha256": "",
		"config": fields{"default_lease_ttl": 0, "max_lease_ttl": 0, "force_no_cache": false},
	}
	if m.kind == "kv" || m.kind == "pki" {
		f["deprecation_status"] = "supported"
	}
	return f
}

// uiMount answers sys/internal/ui/mounts/<path>: where the mount of the path
// begins, and what it is, for a token that may do anything there.
func (s *Server) uiMount(c *call, path string) *answer {
	path = strings.Trim(path, "/")
	full := path
	n := c.ns
	if below := s.resolve(n.path, &path); below != nil {
		n = below
	}
	m, _ := n.mountOf(path)
	if m == nil || !s.sees(c.token, n, m) {
		return refused(http.StatusForbidden, fmt.Sprintf("preflight capability check returned 403, please ensure client's policies grant access to path %q", full+"/"))
	}
	f := m.describe()
	f["path"] = strings.TrimPrefix(n.path, c.ns.path) + m.path
	return found(f)
}

// uiMounts answers sys/internal/ui/mounts: all mounts that the token sees.
func (s *Server) uiMounts(c *call) *answer {
	list := func(table map[string]*mount) fields {
		f := fields{}
		for _, path := range slices.Sorted(maps.Keys(table)) {
			if s.sees(c.token, c.ns, table[path]) {
				f[path] = table[path].describe()
			}
		}
		return f
	}
	return found(fields{"secret": list(c.ns.mounts), "auth": list(c.ns.auths)})
}
