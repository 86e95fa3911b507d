package vaulttest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// KV2 is a mount of key/value secrets with versions.
type KV2 struct {
	server  *Server
	secrets map[string]*versioned
}

// A versioned secret keeps every version it had.
type versioned struct {
	versions         []*revision // the first is number 1; only the last are still there
	custom           fields
	customChanges    int
	created, updated time.Time
}

// kept is how many versions a secret has; older ones are gone.
const kept = 10

// oldest is the number of the first version that is there.
func (s *versioned) oldest() int { return max(0, len(s.versions)-kept) + 1 }

// A revision is one version of a secret.
type revision struct {
	data      fields
	created   time.Time
	deleted   time.Time // zero: it is not
	destroyed bool
}

// KV2 returns the key/value mount, version 2.
func (n *Namespace) KV2(mount string) *KV2 {
	n.t.Helper()
	e := mounted(n, n.mounts, "kv", mount, func() *KV2 { return &KV2{n.server, map[string]*versioned{}} })
	n.setVersion(mount, "2")
	return e
}

// Put stores a new version of the secret, and returns its number.
func (e *KV2) Put(name string, data map[string]any) int {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	return e.put(name, maps.Clone(data), time.Now())
}

func (e *KV2) put(name string, data fields, now time.Time) int {
	s := e.at(name, now)
	s.versions = append(s.versions, &revision{data: data, created: now})
	s.updated = now
	return len(s.versions)
}

// at returns the secret of the name, made if it is not there.
func (e *KV2) at(name string, now time.Time) *versioned {
	if e.secrets[name] == nil {
		e.secrets[name] = &versioned{created: now, updated: now}
	}
	return e.secrets[name]
}

// Annotate sets the custom metadata of the secret.
func (e *KV2) Annotate(name string, custom map[string]string) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	values := fields{}
	for key, value := range custom {
		values[key] = value
	}
	e.annotate(name, values, time.Now())
}

func (e *KV2) annotate(name string, custom fields, now time.Time) {
	s := e.at(name, now)
	s.custom, s.updated = custom, now
	s.customChanges++
}

// Delete marks versions of the secret as deleted, or the last one if none is
// named: Undelete brings them back.
func (e *KV2) Delete(name string, versions ...int) {
	e.change(name, versions, func(r *revision) { r.deleted = time.Now() })
}

// Undelete takes back what Delete did.
func (e *KV2) Undelete(name string, versions ...int) {
	e.change(name, versions, func(r *revision) { r.deleted = time.Time{} })
}

// Destroy forgets the data of the versions, or of the last one.
func (e *KV2) Destroy(name string, versions ...int) {
	e.change(name, versions, func(r *revision) { r.data, r.destroyed = nil, true })
}

// Purge removes the secret with all versions and its metadata.
func (e *KV2) Purge(name string) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	delete(e.secrets, name)
}

func (e *KV2) change(name string, versions []int, do func(*revision)) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	e.alter(name, versions, do)
}

func (e *KV2) alter(name string, versions []int, do func(*revision)) {
	s := e.secrets[name]
	if s == nil {
		return
	}
	if len(versions) == 0 {
		versions = []int{len(s.versions)}
	}
	for _, number := range versions {
		if number > 0 && number <= len(s.versions) {
			do(s.versions[number-1])
		}
	}
}

func (e *KV2) serve(c *call) *answer {
	part, name, deeper := strings.Cut(c.path, "/")
	serve := map[string]func(*call, string) *answer{
		"data": e.serveData, "metadata": e.serveMetadata, "delete": e.serveVersions, "undelete": e.serveVersions, "destroy": e.serveVersions,
	}[part]
	switch {
	case serve == nil:
		return warned("Invalid path for a versioned K/V secrets engine. See the API docs for the appropriate API endpoints to use. " +
			fmt.Sprintf("If using the OpenBao CLI, use 'bao kv %s' for this operation.", cli[c.op]))
	case part == "metadata" && c.op == "list":
		return listed(slices.Collect(maps.Keys(e.secrets)), name)
	case !deeper:
		return warned("Non-listing operations on the root of a K/V v2 mount are not supported.")
	case name == "":
		return absent()
	}
	return serve(c, name)
}

// cli names the command of a call.
var cli = map[string]string{"read": "get", "list": "list", "update": "put", "delete": "delete"}

// warned says that there is nothing, and why.
func warned(text string) *answer {
	return &answer{status: http.StatusNotFound, envelope: envelope{Warnings: []string{text}}}
}

func (e *KV2) serveData(c *call, name string) *answer {
	switch c.op {
	case "read":
		return e.read(c, name)
	case "update":
		data, ok := c.body["data"]
		values, isMap := data.(fields)
		switch {
		case !ok:
			return refused(http.StatusBadRequest, "no data provided")
		case data != nil && !isMap:
			return refused(http.StatusBadRequest, fmt.Sprintf("error converting input for field \"data\": '' expected type 'map[string]interface {}', got unconvertible type '%T'", data))
		}
		number := e.put(name, values, c.now)
		return found(e.secrets[name].describe(number))
	case "delete":
		e.alter(name, nil, func(r *revision) { r.deleted = c.now })
		return done()
	}
	return c.unsupported()
}

func (e *KV2) read(c *call, name string) *answer {
	asked := 0
	if text := c.query.Get("version"); text != "" {
		var err error
		if asked, err = strconv.Atoi(text); err != nil {
			return refused(http.StatusBadRequest, `Field validation failed: error converting input for field "version": '' cannot parse value as 'int': strconv.ParseInt: invalid syntax`)
		}
	}
	s := e.secrets[name]
	if s == nil || asked > len(s.versions) || len(s.versions) == 0 || asked > 0 && asked < s.oldest() {
		return absent()
	}
	if asked <= 0 {
		asked = len(s.versions)
	}
	r := s.versions[asked-1]
	a := found(fields{"data": r.data, "metadata": s.describe(asked)})
	if r.destroyed || !r.deleted.IsZero() {
		a.status = http.StatusNotFound
		a.Data = fields{"data": nil, "metadata": s.describe(asked)}
	}
	return a
}

// describe is the metadata of one version as it comes with the data.
func (s *versioned) describe(number int) fields {
	f := s.versions[number-1].describe()
	f["version"], f["custom_metadata"] = number, s.custom
	return f
}

func (r *revision) describe() fields {
	f := fields{"created_time": stamp(r.created), "deletion_time": "", "destroyed": r.destroyed}
	if !r.deleted.IsZero() {
		f["deletion_time"] = stamp(r.deleted)
	}
	return f
}

// stamp writes a time as the engine does: in UTC, in whole seconds.
func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func (e *KV2) serveMetadata(c *call, name string) *answer {
	switch c.op {
	case "read":
		s := e.secrets[name]
		if s == nil {
			return absent()
		}
		versions, oldest := fields{}, s.oldest()
		for i, r := range s.versions[oldest-1:] {
			versions[strconv.Itoa(oldest+i)] = r.describe()
		}
		if oldest == 1 {
			oldest = 0 // nothing is gone yet
		}
		return found(fields{
			"cas_required": false, "created_time": stamp(s.created), "current_metadata_version": s.customChanges, "current_version": len(s.versions),
			"custom_metadata": s.custom, "delete_version_after": "0s", "max_versions": 0, "metadata_cas_required": false, "oldest_version": oldest,
			"updated_time": stamp(s.updated), "versions": versions,
		})
	case "update":
		custom, _ := c.body["custom_metadata"].(fields)
		e.annotate(name, custom, c.now)
		return done()
	case "delete":
		delete(e.secrets, name)
		return done()
	}
	return c.unsupported()
}

// serveVersions answers delete, undelete and destroy.
func (e *KV2) serveVersions(c *call, name string) *answer {
	if c.op != "update" {
		return c.unsupported()
	}
	list, isList := c.body["versions"].([]any)
	if !isList && c.body["versions"] != nil {
		list = []any{c.body["versions"]}
	}
	if len(list) == 0 {
		return refused(http.StatusBadRequest, "No version number provided")
	}
	versions := make([]int, len(list))
	for i, v := range list {
		number, err := strconv.Atoi(fmt.Sprint(v))
		if err != nil {
			return refused(http.StatusBadRequest, `Field validation failed: error converting input for field "versions": decoding failed due to the following error(s):`+
				fmt.Sprintf("\n\n'[%d]' cannot parse value as 'int': strconv.ParseInt: invalid syntax", i))
		}
		versions[i] = number
	}
	e.alter(name, versions, map[string]func(*revision){
		"delete":   func(r *revision) { r.deleted = c.now },
		"undelete": func(r *revision) { r.deleted = time.Time{} },
		"destroy":  func(r *revision) { r.data, r.destroyed = nil, true },
	}[c.path[:strings.IndexByte(c.path, '/')]])
	return done()
}
