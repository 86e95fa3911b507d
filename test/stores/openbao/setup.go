package openbao

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/test/stores/issuer"
	"github.com/keymount/keymount/test/stores/postgres"
)

// EnableKubernetes mounts the auth method kubernetes, which has the issuer
// review tokens.
func (c *Client) EnableKubernetes(t testing.TB, path string, i *issuer.Issuer) {
	t.Helper()
	reviewer := provider.Pod{Namespace: "kube-system", Name: "reviewer", ServiceAccount: "reviewer"}
	c.EnableAuth(t, path, "kubernetes", Fields{
		"kubernetes_host": i.URL(), "kubernetes_ca_cert": i.CA(), "disable_local_ca_jwt": true,
		"token_reviewer_jwt": string(i.Token(t, reviewer, "api", 24*time.Hour).Value.Reveal()),
	})
}

// MountDatabase mounts the database engine with one connection, postgres.
func (c *Client) MountDatabase(t testing.TB, path string, db *postgres.Server) {
	t.Helper()
	c.Mount(t, path, "database")
	c.Write(t, path+"/config/postgres", Fields{
		"plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "connection_url": db.URL(),
		"username": postgres.Owner, "password": db.Password(),
	})
}

// DatabaseRole writes a role of the database engine: credentials that live for
// ttl, and renewed for maxTTL at most.
func (c *Client) DatabaseRole(t testing.TB, path, role, ttl, maxTTL string) {
	t.Helper()
	c.Write(t, path+"/roles/"+role, Fields{
		"db_name": "postgres", "default_ttl": ttl, "max_ttl": maxTTL,
		"creation_statements": `CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';`,
	})
}

// Leases returns the leases that are alive below a path. Those that were
// revoked stay in the server's list for a moment: it tidies up by itself.
func (c *Client) Leases(t testing.TB, path string) (alive []string) {
	t.Helper()
	for _, key := range c.List(t, "sys/leases/lookup/"+path) {
		answer, err := c.Do(context.WithoutCancel(t.Context()), http.MethodPut, "sys/leases/lookup", Fields{"lease_id": path + "/" + key})
		if err != nil {
			continue // it has gone meanwhile
		}
		if ttl, ok := answer.Data["ttl"].(float64); ok && ttl > 0 {
			alive = append(alive, path+"/"+key)
		}
	}
	return alive
}
