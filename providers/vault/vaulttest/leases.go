package vaulttest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// A lease is what an engine has issued for a time.
type lease struct {
	id                       string
	ns                       *Namespace
	token                    *token // with which it ends; nil for that of a batch token
	issued, renewed, expires time.Time
	ttl, max                 time.Duration
	limit                    time.Time // the end of the batch token it was made with
	renewable                bool
}

// Lifetime says how long the leases of a role live.
type Lifetime struct {
	TTL          time.Duration // zero: 768 h
	MaxTTL       time.Duration // zero: 768 h
	NotRenewable bool
}

// lease adds a lease on what the call has issued, and returns the answer.
func (s *Server) lease(c *call, data fields, life Lifetime) *answer {
	l := &lease{
		id: c.full + "/" + random(24) + c.ns.id, ns: c.ns, token: c.token, issued: c.now, renewable: !life.NotRenewable,
		ttl: min(or(life.TTL, defaultTTL), or(life.MaxTTL, defaultTTL)), max: or(life.MaxTTL, defaultTTL),
	}
	if c.token.grant.Batch {
		l.token, l.limit = nil, c.token.expires
	}
	l.expires = l.until(c.now, l.ttl)
	s.leases[l.id] = l
	a := found(data)
	a.LeaseID, a.Renewable, a.LeaseDuration = l.id, l.renewable, seconds(l.expires.Sub(c.now))
	return a
}

// until is the end of the ttl, or of the batch token.
func (l *lease) until(now time.Time, ttl time.Duration) time.Time {
	end := now.Add(ttl)
	if !l.limit.IsZero() && l.limit.Before(end) {
		return l.limit
	}
	return end
}

// RevokeLease ends the lease of that id.
func (s *Server) RevokeLease(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.leases, id)
}

// revokeLeases ends the leases that match.
func (s *Server) revokeLeases(match func(*lease) bool) {
	for id, l := range s.leases {
		if match(l) {
			delete(s.leases, id)
		}
	}
}

// sys is the mount sys/.
type sys struct{ s *Server }

func (e sys) serve(c *call) *answer {
	if rest, ok := strings.CutPrefix(c.path, "internal/ui/mounts"); ok && c.op == "read" {
		if rest = strings.Trim(rest, "/"); rest == "" {
			return e.s.uiMounts(c)
		}
		return e.s.uiMount(c, rest)
	}
	for verb, do := range map[string]func(*call, string) *answer{"renew": e.renew, "revoke": e.revoke, "lookup": e.lookup} {
		rest, ok := cutPath(strings.TrimPrefix(c.path, "leases/"), verb)
		switch {
		case !ok:
		case c.op != "update":
			return c.unsupported()
		case rest == "" && c.text("lease_id") == "":
			return refused(http.StatusBadRequest, "lease_id must be specified")
		case rest == "":
			return do(c, c.text("lease_id"))
		default:
			return do(c, rest)
		}
	}
	return c.noPath()
}

// cutPath returns what is below the part of the path, if it begins with it.
func cutPath(path, part string) (string, bool) {
	rest, ok := strings.CutPrefix(path+"/", part+"/")
	return strings.TrimSuffix(rest, "/"), ok
}

func (e sys) renew(c *call, id string) *answer {
	l := e.s.leases[id]
	increment, bad := duration(c, "increment")
	switch {
	case bad != nil:
		return bad
	case l == nil:
		return refused(http.StatusBadRequest, "lease not found")
	case !l.renewable:
		return refused(http.StatusBadRequest, "lease is not renewable")
	}
	ttl, warnings, over := capped(or(increment, l.ttl), l.max, l.issued, c.now)
	if over {
		return refused(http.StatusBadRequest, "failed to renew entry: resp: (*logical.Response)(nil) err: "+pastMax)
	}
	l.renewed, l.expires = c.now, l.until(c.now, ttl)
	return &answer{status: http.StatusOK, envelope: envelope{LeaseID: id, Renewable: true, LeaseDuration: seconds(l.expires.Sub(c.now)), Warnings: warnings}}
}

func (e sys) revoke(_ *call, id string) *answer {
	delete(e.s.leases, id)
	return done() // also for a lease that is not there
}

func (e sys) lookup(c *call, id string) *answer {
	l := e.s.leases[id]
	if l == nil {
		return refused(http.StatusBadRequest, "invalid lease")
	}
	f := fields{
		"id": id, "issue_time": l.issued.UTC().Format(time.RFC3339Nano), "expire_time": l.expires.UTC().Format(time.RFC3339Nano),
		"last_renewal": nil, "renewable": l.renewable, "ttl": seconds(l.expires.Sub(c.now)),
	}
	if !l.renewed.IsZero() {
		f["last_renewal"] = l.renewed.UTC().Format(time.RFC3339Nano)
	}
	return found(f)
}

// capped returns the time that a renewal gets: what is asked for, up to the
// max since the issue. The server reckons in whole seconds.
func capped(asked, limit time.Duration, issued, now time.Time) (ttl time.Duration, warnings []string, over bool) {
	left := issued.Truncate(time.Second).Add(limit).Sub(now.Truncate(time.Second))
	switch {
	case left <= 0:
		return 0, nil, true
	case asked <= left:
		return asked, nil, false
	}
	return left, []string{fmt.Sprintf("TTL of %q exceeded the effective max_ttl of %q; TTL value is capped accordingly", human(asked), human(left))}, false
}

// pastMax is what a renewal says that comes in the last, broken second.
const pastMax = "past the max TTL, cannot renew"

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// human writes a duration without its empty units: 1h30m, 10m, 2s.
func human(d time.Duration) string {
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// duration reads the field of the request: 5, "5" or "5s". No field is zero.
func duration(c *call, field string) (time.Duration, *answer) {
	d, problem := parseDuration(c.body[field])
	if problem != "" {
		return 0, refused(http.StatusBadRequest, fmt.Sprintf("Field validation failed: error converting input for field %q: %s", field, problem))
	}
	return d, nil
}

// parseDuration returns what is wrong with the value, if something is.
func parseDuration(v any) (d time.Duration, problem string) {
	text := ""
	switch v := v.(type) {
	case nil:
	case json.Number:
		text = v.String()
	case string:
		text = v
	default:
		return 0, "could not parse duration from input"
	}
	if text == "" {
		return 0, ""
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if d = time.Duration(n) * time.Second; err != nil {
		d, err = time.ParseDuration(text)
	}
	switch {
	case err != nil:
		return 0, err.Error()
	case d < 0:
		return 0, fmt.Sprintf("cannot provide negative value '%s'", text)
	}
	return d, ""
}
