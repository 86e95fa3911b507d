package azure

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keymount/keymount/pkg/keystore"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// A kind is a way to get tokens.
type kind string

const (
	workloadIdentity kind = "workload identity" // the pod's service account token, exchanged at Entra ID
	identityBinding  kind = "identity binding"  // the same, exchanged at the token proxy of the cluster
	servicePrincipal kind = "service principal" // a secret or certificate in nodePublishSecretRef
	managedIdentity  kind = "managed identity"  // that of the node
)

// audience is that of the service account token that the kind takes.
func (k kind) audience() string {
	switch k {
	case workloadIdentity:
		return "api://AzureADTokenExchange"
	case identityBinding:
		return "api://AKSIdentityBinding"
	default:
		return ""
	}
}

// An identity is who reads, and how that is proved.
type identity struct {
	kind    kind
	cloud   cloud
	tenant  string
	client  string // of the application or the managed identity; empty: the node's only one
	account string // namespace/name of the service account
	// What proves it: a token of the service account, or a secret or a
	// certificate with its key.
	proof        secret.Value
	certificates []*x509.Certificate
	key          crypto.PrivateKey
	// share is equal for identities that may share tokens. The proof is part of
	// every request nevertheless: that others of the identity had a token before
	// is not enough.
	share string
}

// idForm is that of the IDs of tenants and applications, and of the domains
// that tenants have.
var idForm = regexp.MustCompile(`^[-.0-9A-Za-z]{1,128}$`)

// identity returns who the class says that reads.
func (p parameters) identity(req *provider.Request) (identity, error) {
	i := identity{client: p.value("clientID"), tenant: p.value("tenantID"), account: req.Pod.Namespace + "/" + req.Pod.ServiceAccount}
	if i.tenant == "" {
		i.tenant = p.value("tenantId")
	}
	var err error
	if i.kind, err = p.kind(i.client); err != nil {
		return i, err
	}
	if i.kind == managedIdentity {
		i.client = p.value("userAssignedIdentityID")
	}
	if i.cloud, err = p.settings.cloud(p.value("cloudName"), p.value("cloudEnvFileName")); err != nil {
		return i, err
	}
	switch {
	case i.tenant == "" && i.kind != managedIdentity:
		return i, fmt.Errorf("tenantId is not provided: set the parameter tenantID: %w", provider.ErrInvalid) // a text that people search for
	case i.tenant != "" && !idForm.MatchString(i.tenant):
		return i, fmt.Errorf("tenantID %.80q is neither the ID of a tenant nor a domain: %w", i.tenant, provider.ErrInvalid)
	case i.client == "" && i.kind == identityBinding:
		return i, fmt.Errorf("clientID is required for identity binding: %w", provider.ErrInvalid) // a text that people search for
	case i.client != "" && !idForm.MatchString(i.client):
		return i, fmt.Errorf("the client ID %.80q is no ID of an application or a managed identity: %w", i.client, provider.ErrInvalid)
	}
	return i, nil
}

// kind returns how the class gets tokens. The texts are those that people
// search for.
func (p parameters) kind(client string) (kind, error) {
	var modes []kind
	for _, mode := range []struct {
		parameter string
		kind      kind
	}{{"usePodIdentity", ""}, {"useVMManagedIdentity", managedIdentity}, {"useAzureTokenProxy", identityBinding}} {
		on, err := p.flag(mode.parameter)
		if err != nil {
			return "", err
		}
		if on {
			modes = append(modes, mode.kind)
		}
	}
	switch {
	case len(modes) > 1:
		return "", fmt.Errorf("only one identity mode can be enabled at a time: usePodIdentity, useVMManagedIdentity, or useAzureTokenProxy: %w", provider.ErrInvalid)
	case len(modes) == 1 && modes[0] == "":
		return "", fmt.Errorf("usePodIdentity: AAD Pod Identity is no longer there: remove the parameter, and set clientID to use a workload identity: %w", provider.ErrInvalid)
	case len(modes) == 1 && modes[0] == managedIdentity && p.settings.NoManagedIdentity:
		return "", fmt.Errorf("useVMManagedIdentity is not allowed here: the provider runs with --azure-no-managed-identity: %w", provider.ErrDenied)
	case len(modes) == 1:
		return modes[0], nil
	case client != "":
		return workloadIdentity, nil
	default:
		return servicePrincipal, nil
	}
}

// prove fills in what proves the identity. The key is one of this process.
func (i *identity) prove(req *provider.Request, key []byte) error {
	var mark []byte
	switch i.kind {
	case workloadIdentity, identityBinding:
		token, err := req.Tokens.For(i.kind.audience(), time.Now())
		if err != nil {
			return err
		}
		i.proof = token.Value
	case servicePrincipal:
		if err := i.credentials(req.Credentials); err != nil {
			return fmt.Errorf("%w: %w", err, provider.ErrInvalid)
		}
		mark = i.proof.MAC(key)
	}
	account := i.account
	if i.kind == managedIdentity {
		account = "" // it is nobody's in particular
	}
	i.share = fmt.Sprintf("%q", []string{string(i.kind), i.cloud.authority, i.cloud.audience, i.tenant, i.client, account, string(mark)})
	return nil
}

// The keys of the Secret that nodePublishSecretRef names, in any case.
const (
	clientIDKey          = "clientid"
	clientSecretKey      = "clientsecret"
	clientCertificateKey = "clientcertificate"
)

// credentials takes those of a service principal. The texts are those that
// people search for.
func (i *identity) credentials(given map[string]secret.Value) error {
	if len(given) == 0 {
		return errors.New("failed to get credentials, nodePublishSecretRef secret is not set: " +
			"set clientID for a workload identity, useVMManagedIdentity, or nodePublishSecretRef with clientid and clientsecret")
	}
	values := make(map[string]secret.Value, len(given))
	for name, value := range given {
		name = strings.ToLower(name)
		if _, twice := values[name]; twice {
			return fmt.Errorf("the Secret of nodePublishSecretRef has the key %.80q twice, which differ in their case", name)
		}
		values[name] = value
	}
	i.client = strings.TrimSpace(string(values[clientIDKey].Reveal()))
	password, certificate := values[clientSecretKey], values[clientCertificateKey]
	switch {
	case i.client == "":
		return errors.New("could not find clientid in secrets: the Secret of nodePublishSecretRef needs that key")
	case !idForm.MatchString(i.client):
		return errors.New("clientid in the Secret of nodePublishSecretRef is no ID of an application")
	case password.Len() > 0 && certificate.Len() > 0:
		return errors.New("the Secret of nodePublishSecretRef has both clientsecret and clientcertificate: keep one")
	case certificate.Len() > 0:
		i.proof = certificate
		return i.certificate(certificate.Reveal())
	case password.Len() == 0:
		return errors.New("could not find clientsecret in secrets: the Secret of nodePublishSecretRef needs that key, or clientcertificate")
	default:
		i.proof = secret.New([]byte(strings.TrimSpace(string(password.Reveal()))))
		return nil
	}
}

// certificate takes a certificate with its key, in PEM or PKCS#12 without a
// password.
func (i *identity) certificate(file []byte) error {
	if block, _ := pem.Decode(file); block == nil {
		store, err := keystore.Open(file)
		if err != nil {
			return fmt.Errorf("clientcertificate in the Secret of nodePublishSecretRef: %w", err)
		}
		i.certificates, i.key = store.Chain(), store.Key
		return nil
	}
	var err error
	if i.certificates, i.key, err = azidentity.ParseCertificates(file, nil); err != nil {
		return errors.New("clientcertificate in the Secret of nodePublishSecretRef holds no certificate with its private key in PEM")
	}
	return nil
}

// String says who reads, for messages.
func (i identity) String() string {
	switch i.kind {
	case servicePrincipal:
		return "service principal " + i.client
	case managedIdentity:
		if i.client == "" {
			return "the managed identity of the node"
		}
		return "managed identity " + i.client
	default:
		return fmt.Sprintf("service account %s with client ID %s (%s)", i.account, i.client, i.kind)
	}
}
