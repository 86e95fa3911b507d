package azuretest

import (
	"crypto/x509"
	"strings"
)

// An App is an application of the tenant, or a managed identity: how it proves
// who it is. What is not set, it cannot do.
type App struct {
	Secret      string            // a client secret
	Certificate *x509.Certificate // whose RSA key signs its assertions
	Subjects    []string          // of federated tokens, like system:serviceaccount:shop:web, of every trusted issuer
	// Audience is that of federated tokens, except at the token proxy, which
	// wants api://AKSIdentityBinding. Default: api://AzureADTokenExchange.
	Audience string
}

func (a App) audience() string {
	if a.Audience == "" {
		return "api://AzureADTokenExchange"
	}
	return a.Audience
}

// App makes the application of that client ID, or changes it. It may do
// everything that Vault.Deny does not forbid.
func (s *Server) App(clientID string, app App) {
	s.change(func() { s.apps[strings.ToLower(clientID)] = app })
}

// Machine says which managed identities the virtual machine has, by client ID.
// IMDS takes the first one for a request that names none.
func (s *Server) Machine(clientIDs ...string) {
	s.change(func() { s.machine = clientIDs })
}
