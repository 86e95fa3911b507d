package vaulttest

import (
	"maps"
	"net/http"
	"slices"
	"strings"
)

// KV1 is a mount of key/value secrets without versions.
type KV1 struct {
	server  *Server
	secrets map[string]fields
}

// KV1 returns the key/value mount, version 1.
func (n *Namespace) KV1(mount string) *KV1 {
	n.t.Helper()
	e := mounted(n, n.mounts, "kv", mount, func() *KV1 { return &KV1{n.server, map[string]fields{}} })
	n.setVersion(mount, "1")
	return e
}

// setVersion notes the version of a key/value mount.
func (n *Namespace) setVersion(mount, version string) {
	n.server.mu.Lock()
	defer n.server.mu.Unlock()
	n.mounts[strings.Trim(mount, "/")+"/"].options["version"] = version
}

// Put stores the secret.
func (e *KV1) Put(name string, data map[string]any) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	e.secrets[name] = maps.Clone(data)
}

// Delete removes the secret.
func (e *KV1) Delete(name string) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	delete(e.secrets, name)
}

func (e *KV1) serve(c *call) *answer {
	switch c.op {
	case "read":
		data, ok := e.secrets[c.path]
		if !ok {
			return absent()
		}
		a := found(data)
		a.LeaseDuration = seconds(defaultTTL)
		if ttl, problem := parseDuration(data["ttl"]); problem == "" && ttl != 0 {
			a.LeaseDuration = seconds(ttl)
		}
		return a
	case "list":
		return listed(slices.Collect(maps.Keys(e.secrets)), c.path)
	case "update":
		if len(c.body) == 0 {
			return refused(http.StatusBadRequest, "missing data fields")
		}
		e.secrets[c.path] = c.body
		return done()
	case "delete":
		delete(e.secrets, c.path)
		return done()
	}
	return c.unsupported()
}

// listed answers with the names directly below the folder.
func listed(names []string, folder string) *answer {
	if folder != "" && !strings.HasSuffix(folder, "/") {
		folder += "/"
	}
	keys := map[string]bool{}
	for _, name := range names {
		if rest, ok := strings.CutPrefix(name, folder); ok {
			part, _, deeper := strings.Cut(rest, "/")
			if deeper {
				part += "/"
			}
			keys[part] = true
		}
	}
	if len(keys) == 0 {
		return absent()
	}
	return found(fields{"keys": slices.Sorted(maps.Keys(keys))})
}
