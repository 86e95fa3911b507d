package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azidentity"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// An identityError says that somebody has no token, whatever it was for.
type identityError struct {
	who identity
	err error
}

func (e *identityError) Error() string {
	return fmt.Sprintf("no token of Entra ID for %v: %v", e.who, e.err)
}

func (e *identityError) Unwrap() error { return e.err }

// token returns one of the identity, for vaults of its cloud.
func (f *fetch) token(ctx context.Context) (secret.Value, error) {
	return f.wallet.Get(ctx, f.identity.share, f.login)
}

// login gets a token.
func (f *fetch) login(ctx context.Context) (secret.Value, time.Time, error) {
	i := f.identity
	client, err := f.clientFor(i)
	if err != nil {
		return secret.Value{}, time.Time{}, &identityError{i, err}
	}
	defer func() {
		if i.kind == identityBinding {
			client.CloseIdleConnections()
		}
	}()
	credential, err := i.credential(f.options(client))
	if err != nil {
		return secret.Value{}, time.Time{}, &identityError{i, fmt.Errorf("%s: %w", printable(err.Error()), provider.ErrInvalid)}
	}
	want := policy.TokenRequestOptions{Scopes: []string{i.cloud.scope()}}
	if i.kind == managedIdentity {
		want.Claims = "{}" // else it comes from a cache that all of the process has, accepted or not
	}
	token, err := credential.GetToken(ctx, want)
	if err != nil {
		return secret.Value{}, time.Time{}, &identityError{i, i.refused(ctx, err)}
	}
	return secret.New([]byte(token.Token)), token.ExpiresOn, nil
}

// clientFor returns the HTTP client that reaches who gives the identity tokens.
func (p *Provider) clientFor(i identity) (*http.Client, error) {
	switch i.kind {
	case identityBinding:
		return p.settings.throughProxy()
	case managedIdentity:
		return p.settings.imds, nil
	default:
		return p.settings.http, nil
	}
}

// credential returns what the SDK calls one. The token of a service account is
// that of the request which needed it first.
func (i identity) credential(options azcore.ClientOptions) (azcore.TokenCredential, error) {
	options.Cloud = i.cloud.configuration()
	switch i.kind {
	case managedIdentity:
		managed := &azidentity.ManagedIdentityCredentialOptions{ClientOptions: options}
		if i.client != "" {
			managed.ID = azidentity.ClientID(i.client)
		}
		return azidentity.NewManagedIdentityCredential(managed)
	case servicePrincipal:
		if i.key != nil {
			return azidentity.NewClientCertificateCredential(i.tenant, i.client, i.certificates, i.key, &azidentity.ClientCertificateCredentialOptions{
				ClientOptions: options, DisableInstanceDiscovery: i.cloud.private, SendCertificateChain: true,
			})
		}
		return azidentity.NewClientSecretCredential(i.tenant, i.client, string(i.proof.Reveal()), &azidentity.ClientSecretCredentialOptions{
			ClientOptions: options, DisableInstanceDiscovery: i.cloud.private,
		})
	default:
		assertion := func(context.Context) (string, error) { return string(i.proof.Reveal()), nil }
		return azidentity.NewClientAssertionCredential(i.tenant, i.client, assertion, &azidentity.ClientAssertionCredentialOptions{
			ClientOptions: options, DisableInstanceDiscovery: i.cloud.private || i.kind == identityBinding,
		})
	}
}

// refused explains why there is no token, and says what to look at.
func (i identity) refused(ctx context.Context, err error) error {
	err = explain(ctx, err, i.proof)
	var p *problem
	if errors.As(err, &p) && p.status == http.StatusBadRequest { // so the services say most of what others answer with 401
		p.reason = provider.ErrDenied
	}
	switch i.kind {
	case workloadIdentity, identityBinding:
		namespace, name, _ := strings.Cut(i.account, "/")
		return fmt.Errorf("tenant %s: %w (the application or managed identity needs a federated credential for system:serviceaccount:%s:%s with audience %s)",
			i.tenant, err, namespace, name, i.kind.audience())
	case managedIdentity:
		return fmt.Errorf("the metadata service of the node: %w (is the identity assigned to its virtual machine?)", err)
	default:
		return fmt.Errorf("tenant %s: %w", i.tenant, err)
	}
}
