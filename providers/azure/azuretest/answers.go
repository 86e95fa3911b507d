package azuretest

import (
	"encoding/base64"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// get returns a version of an object, with its content. It needs server.mu.
func (v *Vault) get(client string, asked *read) (any, error) {
	if err := v.allow(client, asked.operation, asked.name); err != nil {
		return nil, err
	}
	found, err := v.find(asked.kind, asked.name, asked.version)
	if err != nil {
		return nil, err
	}
	if found.disabled && asked.kind != certificates {
		noun, code := nounOf(asked.kind)
		return nil, withInner(refuse(http.StatusForbidden, "Forbidden", "Operation get is not allowed on a disabled %s.", noun), code+"Disabled")
	}
	answer := object{"attributes": found.attributes(), "tags": object{}}
	maps.Copy(answer, found.brief)
	maps.Copy(answer, found.full(asked.base))
	return answer, nil
}

// list returns a page of the objects of a kind, or of the versions of one. An
// object that is not there has none. It needs server.mu.
func (v *Vault) list(client string, asked *read) (any, error) {
	if err := v.allow(client, asked.kind+"/list", asked.name); err != nil {
		return nil, err
	}
	size, err := v.pageSize(asked.query.Get("maxresults"))
	if err != nil {
		return nil, err
	}
	after, err := base64.RawURLEncoding.DecodeString(asked.query.Get("$skiptoken"))
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "BadParameter", "The $skiptoken is invalid.")
	}
	all := v.listed(asked)
	page, last := []object{}, ""
	answer := object{"nextLink": nil}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if name <= string(after) {
			continue
		}
		if len(page) == size {
			answer["nextLink"] = asked.next(last)
			break
		}
		page, last = append(page, all[name]), name
	}
	answer["value"] = page
	return answer, nil
}

// pageSize returns how many items a page has.
func (v *Vault) pageSize(asked string) (int, error) {
	if asked == "" {
		return v.server.options.PageSize, nil
	}
	size, err := strconv.Atoi(asked)
	if err != nil || size < 1 || size > maxPage {
		return 0, refuse(http.StatusBadRequest, "BadParameter", "Invalid maxresults: it is a number from 1 to %d.", maxPage)
	}
	return min(size, v.server.options.PageSize), nil
}

// listed returns what a list has in all its pages, by what it is sorted by.
func (v *Vault) listed(asked *read) map[string]object {
	all := map[string]object{}
	add := func(by, path string, v *version) {
		entry := object{"attributes": v.attributes()}
		maps.Copy(entry, v.brief)
		id := "id"
		if asked.kind == keys {
			id = "kid"
		}
		entry[id] = asked.base + "/" + asked.kind + "/" + path
		all[by] = entry
	}
	if asked.name == "" {
		for by, it := range v.objects[asked.kind] {
			add(by, it.name, it.versions[len(it.versions)-1])
		}
		return all
	}
	if it := v.objects[asked.kind][strings.ToLower(asked.name)]; it != nil {
		for _, version := range it.versions {
			add(version.id, it.name+"/"+version.id, version)
		}
	}
	return all
}

// next returns the address of the page after that which ends with last.
func (r *read) next(last string) string {
	path := "/" + r.kind
	if r.name != "" {
		path += "/" + r.name + "/versions"
	}
	query := url.Values{"api-version": r.query["api-version"], "$skiptoken": {base64.RawURLEncoding.EncodeToString([]byte(last))}}
	if size := r.query.Get("maxresults"); size != "" {
		query.Set("maxresults", size)
	}
	return r.base + ":443" + path + "?" + query.Encode()
}
