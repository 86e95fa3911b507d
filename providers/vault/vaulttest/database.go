package vaulttest

import (
	"fmt"
	"net/http"
	"time"
)

// Database is a mount that makes users with passwords.
type Database struct {
	server *Server
	roles  map[string]Lifetime
	static map[string]*StaticRole
	users  map[string]user // by name; those whose lease is over are still in it
}

// A user is what creds/<role> has made.
type user struct{ password, lease string }

// StaticRole is a user that is there already, whose password changes.
type StaticRole struct {
	Username, Password string
	Rotation           time.Duration // zero: 24 h
	rotated            time.Time
}

// Database returns the database mount.
func (n *Namespace) Database(mount string) *Database {
	n.t.Helper()
	return mounted(n, n.mounts, "database", mount, func() *Database {
		return &Database{n.server, map[string]Lifetime{}, map[string]*StaticRole{}, map[string]user{}}
	})
}

// Role sets the role whose users live as long as life says.
func (e *Database) Role(name string, life Lifetime) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	e.roles[name] = life
}

// Static sets the static role: once more is a rotation.
func (e *Database) Static(name string, role StaticRole) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	role.Rotation, role.rotated = or(role.Rotation, 24*time.Hour), time.Now()
	e.static[name] = &role
}

// Login reports whether the database takes the user's password: it does as
// long as the lease lives.
func (e *Database) Login(username, password string) bool {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	e.server.expire(time.Now())
	for _, role := range e.static {
		if role.Username == username && role.Password == password {
			return true
		}
	}
	u, ok := e.users[username]
	return ok && u.password == password && e.server.leases[u.lease] != nil
}

func (e *Database) serve(c *call) *answer {
	name, isCreds := cutPath(c.path, "creds")
	static, isStatic := cutPath(c.path, "static-creds")
	switch {
	case isCreds && name != "":
	case isStatic && static != "":
		name = static
	default:
		return c.noPath()
	}
	switch life, ok := e.roles[name]; {
	case c.op != "read":
		return c.unsupported()
	case isStatic && e.static[name] != nil:
		return found(e.static[name].describe(c.now))
	case isStatic || !ok:
		return refused(http.StatusBadRequest, "unknown role: "+name)
	default:
		return e.create(c, name, life)
	}
}

// create makes a user.
func (e *Database) create(c *call, role string, life Lifetime) *answer {
	u := user{password: random(20)}
	name := fmt.Sprintf("v-%.8s-%.8s-%s-%d", c.token.display, role, random(20), c.now.Unix())
	a := e.server.lease(c, fields{"username": name, "password": u.password}, life)
	u.lease = a.LeaseID
	e.users[name] = u
	return a
}

func (r *StaticRole) describe(now time.Time) fields {
	return fields{
		"username": r.Username, "password": r.Password, "rotation_period": seconds(r.Rotation), "ttl": seconds(r.rotated.Add(r.Rotation).Sub(now)),
		"last_vault_rotation": r.rotated.UTC().Format(time.RFC3339Nano),
	}
}
