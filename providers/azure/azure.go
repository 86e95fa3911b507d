// Package azure is a provider for Azure Key Vault. Classes of Microsoft's own
// provider work as they are.
//
// # Parameters
//
// Keys are case-sensitive, what is not listed is ignored, and so is white space
// around values.
//
//	keyvaultName            required: the vault, 3 to 24 letters, digits and dashes
//	objects                 required; see below
//	tenantID                ID or domain of the tenant; tenantId is taken, too. Not needed with useVMManagedIdentity
//	clientID                of the application or managed identity that the pod's service account stands for (workload identity)
//	useAzureTokenProxy      true: the same by the token proxy of the cluster (identity binding)
//	useVMManagedIdentity    true: the managed identity of the node, unless --azure-no-managed-identity
//	userAssignedIdentityID  client ID of that. Default: the only one that the node has
//	cloudName               AzurePublicCloud, AzureUSGovernmentCloud, AzureChinaCloud, AzureGermanCloud or
//	                        AzureStackCloud. Default: --azure-cloud
//	cloudEnvFileName        JSON file in the provider's file system that describes AzureStackCloud.
//	                        Default: --azure-environment-file
//
// Without any of clientID, useAzureTokenProxy and useVMManagedIdentity a service
// principal reads: the Secret that nodePublishSecretRef names has its clientid,
// and its clientsecret or clientcertificate (with the key, in PEM or PKCS#12).
//
// The parameter objects is a YAML list, or a map with the list array, of maps
// or of strings that hold the YAML of one; unknown fields are ignored:
//
//	objectName            name in the vault. Required
//	objectType            secret, key (its public part) or cert (without its key). Required
//	objectAlias           the file in the volume. Default: objectName
//	objectVersion         default, and latest: the current one
//	objectVersionHistory  N above 1: the N newest enabled versions from that one back, as files <alias>/0, <alias>/1...
//	objectFormat          pem (default) or pfx, of a certificate's secret
//	objectEncoding        utf-8 (default), base64 or hex: how what is stored stands for the bytes; of secrets
//	filePermission        octal, quoted or not. Default: what the driver asks for
//	separateFiles         true: the certificate and the key of a certificate's secret also as <alias>.crt and <alias>.key
//	passwordObject        a secret of the vault that has the password with which a PFX is written
//	optional              true: leave the file out of the volume while the object does not exist
//
// # Content
//
// A secret is written as it is stored. What Key Vault makes of a certificate is
// written as PEM, key first: as it is stored, or, if that is PKCS#12, with the
// certificates in the order in which a server sends them. In format pfx it is
// base64 of PKCS#12, and with objectEncoding base64 the bytes. A key is written
// as PUBLIC KEY (PKIX), a certificate as CERTIFICATE. Two files of one name are
// an error.
//
// # Authentication
//
// The token of the service account has the audience api://AzureADTokenExchange,
// with an identity binding api://AKSIdentityBinding. What Entra ID gives for it
// is kept until shortly before its end, for pods of the same service account,
// tenant and client ID; every request must bring a proof anew. A token is sent
// to vaults of its cloud only, and no request is made to ask a vault what token
// it wants.
//
// # Versions
//
// An object's ID is <type>/<name>, with /<number> in a history. Its version is
// the last segment of the ID in the vault. A poll that
// finds nothing new costs a call for each object, one for 25 versions of a
// history, and none for an object that is pinned.
//
// # Expiry
//
// What is past its expiration date (exp), and a certificate past its end, is
// served with a provider.Warning, or refused with --azure-refuse-expired. The
// bundle expires when the first of its objects does.
//
// # Errors
//
// Not found: the object, or its version, does not exist. Denied: 401 and 403,
// also of a disabled version, and what Entra ID refuses. Invalid: parameters,
// other answers of 400, and content that is not what the class says. Unavailable:
// throttling, 5xx, no answer and all else, after retries within what Retry-After
// asks for. The vault, object, version and identity are part of the error, and
// so are the codes, message and request ID of the service.
package azure

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/wallet"
	"github.com/keymount/keymount/pkg/secret"
)

// A Provider reads from Azure Key Vault. It is safe for concurrent use.
type Provider struct {
	settings settings
	pause    time.Duration // the first one between two attempts
	key      []byte        // marks secrets of service principals
	wallet   wallet.Wallet[secret.Value]
	vaults   vaults
	ends     memory
}

// New returns a Provider. It makes no call; its life ends with Close.
func New(opts *Options) (*Provider, error) {
	s, err := opts.settings()
	if err != nil {
		return nil, err
	}
	p := &Provider{settings: s, pause: time.Second, key: make([]byte, 32)}
	_, _ = rand.Read(p.key) // never fails
	return p, nil
}

// Fetch implements provider.Provider.
func (p *Provider) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	q, err := p.parse(req)
	if err != nil {
		return nil, err
	}
	f := &fetch{Provider: p, query: q, url: q.identity.cloud.vault(q.vaultName), held: req.Held.Versions}
	if f.vault, err = p.vaultAt(f.url); err != nil {
		return nil, invalid(err)
	}
	return f.run(ctx)
}

// Close waits for logins that nobody waits for any more, and ends idle
// connections. No call may be in progress or follow.
func (p *Provider) Close() error {
	p.wallet.Close()
	p.settings.http.CloseIdleConnections()
	p.settings.imds.CloseIdleConnections()
	return nil
}
