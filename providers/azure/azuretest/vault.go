package azuretest

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// What a vault holds.
const (
	secrets      = "secrets"
	keys         = "keys"
	certificates = "certificates"
)

// challenge is the operation of a request without a token, whatever it is for.
const challenge = "challenge"

func kinds() []string { return []string{secrets, keys, certificates} }

// permissions returns what an app may be denied.
func permissions() (all []string) {
	for _, kind := range kinds() {
		all = append(all, kind+"/get", kind+"/list")
	}
	return all
}

func vaultOperations() []string {
	all := append(permissions(), challenge)
	for _, kind := range kinds() {
		all = append(all, kind+"/versions")
	}
	return all
}

// vaultName matches the names that a vault can have, but for their length.
var vaultName = regexp.MustCompile(`^[a-z](-?[a-z0-9])*$`)

// A Vault is a Key Vault of the tenant.
type Vault struct {
	*Faults // the operations are challenge, and get, list and versions of secrets, keys and certificates

	server  *Server
	name    string
	objects map[string]map[string]*item // by kind, and name in lower case; guarded by server.mu
	denied  map[denial]bool             // guarded by server.mu
}

// A denial is what an app must not do.
type denial struct{ client, operation, name string }

// Vault returns the vault of that name, which is made when it is first named.
// It is at the vault suffix of every cloud.
func (s *Server) Vault(name string) *Vault {
	s.t.Helper()
	name = strings.ToLower(name)
	if len(name) < 3 || len(name) > 24 || !vaultName.MatchString(name) {
		s.t.Errorf("azuretest: no vault can have the name %q", name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.vaults[name]
	if v == nil {
		v = &Vault{Faults: newFaults(s.t, vaultOperations()), server: s, name: name, objects: map[string]map[string]*item{}, denied: map[denial]bool{}}
		for _, kind := range kinds() {
			v.objects[kind] = map[string]*item{}
		}
		s.vaults[name] = v
	}
	return v
}

// Deny forbids an app an operation on the object of that name; an empty name
// is all of them. The operations are get and list of secrets, keys and
// certificates, like secrets/get; list is also that of versions.
func (v *Vault) Deny(clientID, operation, name string) {
	v.server.t.Helper()
	d := v.denial(clientID, operation, name)
	v.server.change(func() { v.denied[d] = true })
}

// Allow takes back what Deny said in the same words.
func (v *Vault) Allow(clientID, operation, name string) {
	v.server.t.Helper()
	d := v.denial(clientID, operation, name)
	v.server.change(func() { delete(v.denied, d) })
}

func (v *Vault) denial(clientID, operation, name string) denial {
	v.server.t.Helper()
	if !slices.Contains(permissions(), operation) {
		v.server.t.Errorf("azuretest: no app can be denied %q: there are %q", operation, permissions())
	}
	return denial{strings.ToLower(clientID), operation, strings.ToLower(name)}
}

// allow returns an error unless the app may do that. It needs server.mu.
func (v *Vault) allow(client, operation, name string) error {
	if !v.denied[denial{client, operation, strings.ToLower(name)}] && !v.denied[denial{client, operation, ""}] {
		return nil
	}
	kind, verb, _ := strings.Cut(operation, "/")
	action := map[string]string{
		"secrets/get": "secrets/getSecret/action", "secrets/list": "secrets/readMetadata/action", "keys/get": "keys/read",
		"keys/list": "keys/read", "certificates/get": "certificates/read", "certificates/list": "certificates/read",
	}[operation]
	resource := "/subscriptions/" + v.server.Tenant + "/resourcegroups/test/providers/microsoft.keyvault/vaults/" + v.name
	if verb == "get" {
		resource += "/" + kind + "/" + name
	}
	r := refuse(http.StatusForbidden, "Forbidden", "Caller is not authorized to perform action on resource.\r\n"+
		"If role assignments, deny assignments or role definitions were changed recently, please observe propagation time.\r\n"+
		"Caller: appid=%s;oid=%s;iss=%s\r\nAction: 'Microsoft.KeyVault/vaults/%s'\r\nResource: '%s'\r\nAssignment: (not found)\r\n"+
		"DenyAssignmentId: null\r\nDecisionReason: null \r\nVault: %s;location=westeurope\r\n",
		client, client, v.server.tokenIssuer(), action, resource, v.name)
	return withInner(r, "ForbiddenByRbac")
}
