package azuretest

import (
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

// An item is a secret, key or certificate. It has at least one version.
type item struct {
	name     string
	versions []*version // the newest one last
}

// A version of an item.
type version struct {
	id                 string
	created, updated   time.Time
	expires, notBefore time.Time // zero: never, always
	disabled           bool
	brief              object                    // what lists say of it
	full               func(vault string) object // what else an answer has; vault is https://kv1.vault.azure.net
}

// put adds a version of its own ID. It needs server.mu. Times have seconds;
// that no two versions have the same lets a client know which is the newest.
func (v *Vault) put(kind, name string, added version) {
	v.server.t.Helper()
	if !objectName.MatchString(name) {
		v.server.t.Errorf("azuretest: no object of a vault can have the name %q", name)
	}
	it := v.objects[kind][strings.ToLower(name)]
	if it == nil {
		it = &item{name: name}
		v.objects[kind][strings.ToLower(name)] = it
	}
	added.created = time.Now().Truncate(time.Second)
	if n := len(it.versions); n > 0 && !it.versions[n-1].created.Before(added.created) {
		added.created = it.versions[n-1].created.Add(time.Second)
	}
	added.updated = added.created
	it.versions = append(it.versions, &added)
}

func newVersion() string { return hex.EncodeToString(random(16)) }

// Disable disables a version of secrets, keys or certificates: of a
// certificate, its key and its secret as well.
func (v *Vault) Disable(kind, name, versionID string) {
	v.server.t.Helper()
	v.server.mu.Lock()
	defer v.server.mu.Unlock()
	all := []string{kind}
	if kind == certificates {
		all = kinds()
	}
	for _, kind := range all {
		found, err := v.find(kind, name, versionID)
		if err != nil {
			v.server.t.Errorf("azuretest: disable version %s of %s of %s: %v", versionID, name, kind, err)
			return
		}
		found.disabled, found.updated = true, time.Now()
	}
}

// Delete deletes what has that name: secret, key and certificate.
func (v *Vault) Delete(name string) {
	v.server.change(func() {
		for _, objects := range v.objects {
			delete(objects, strings.ToLower(name))
		}
	})
}

// find returns a version of an object, or the newest one if none is named. It
// needs server.mu.
func (v *Vault) find(kind, name, id string) (*version, error) {
	it := v.objects[kind][strings.ToLower(name)]
	switch {
	case it == nil:
	case id == "":
		return it.versions[len(it.versions)-1], nil
	default:
		if at := slices.IndexFunc(it.versions, func(v *version) bool { return strings.EqualFold(v.id, id) }); at >= 0 {
			return it.versions[at], nil
		}
	}
	noun, code := nounOf(kind)
	return nil, refuse(http.StatusNotFound, code+"NotFound", "A %s with (name/id) %s was not found in this key vault. "+
		"If you recently deleted this %s you may be able to recover it using the correct recovery command. "+
		"For help resolving this issue, please see https://go.microsoft.com/fwlink/?linkid=2125182",
		noun, strings.TrimSuffix(name+"/"+id, "/"), noun)
}

// nounOf returns what texts call an object of a kind, and how codes begin.
func nounOf(kind string) (noun, code string) {
	noun = strings.TrimSuffix(kind, "s")
	return noun, strings.ToUpper(noun[:1]) + noun[1:]
}

// attributes returns those of answers and lists.
func (v *version) attributes() object {
	a := object{
		"enabled": !v.disabled, "created": epoch(v.created), "updated": epoch(v.updated),
		"recoveryLevel": "Recoverable+Purgeable", "recoverableDays": 90,
	}
	if !v.expires.IsZero() {
		a["exp"] = epoch(v.expires)
	}
	if !v.notBefore.IsZero() {
		a["nbf"] = epoch(v.notBefore)
	}
	return a
}
