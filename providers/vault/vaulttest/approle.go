package vaulttest

import "net/http"

// AppRole is an auth mount whose roles have a role id and a secret id.
type AppRole struct {
	server *Server
	ns     *Namespace
	mount  string
	roles  map[string]appRole // by role id
}

type appRole struct {
	name, secretID string
	grant          Grant
}

// AppRole returns the auth mount of that type.
func (n *Namespace) AppRole(mount string) *AppRole {
	n.t.Helper()
	return mounted(n, n.auths, "approle", mount, func() *AppRole { return &AppRole{n.server, n, mount, map[string]appRole{}} })
}

// Role makes a role, and returns what logs in to it.
func (e *AppRole) Role(name string, g Grant) (roleID, secretID string) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	roleID, secretID = uuid(), uuid()
	e.roles[roleID] = appRole{name, secretID, g}
	return roleID, secretID
}

func (e *AppRole) open(path string) bool { return path == "login" }

func (e *AppRole) serve(c *call) *answer {
	roleID, secretID := c.text("role_id"), c.text("secret_id")
	role, ok := e.roles[roleID]
	switch {
	case c.path != "login":
		return c.noPath()
	case c.op != "update":
		return c.unsupported()
	case roleID == "":
		return refused(http.StatusInternalServerError, "missing role_id")
	case !ok:
		return refused(http.StatusBadRequest, "invalid role or secret ID")
	case secretID == "":
		return refused(http.StatusBadRequest, "missing secret_id")
	case secretID != role.secretID:
		return refused(http.StatusBadRequest, "invalid role or secret ID")
	}
	return e.server.logIn(c, &token{
		ns: e.ns, path: "auth/" + e.mount + "/login", display: e.ns.display(e.mount), entity: uuid(), meta: map[string]string{"role_name": role.name},
		grant: role.grant, policies: policies(role.name),
	})
}
