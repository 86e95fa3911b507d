package azure

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azcertificates"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/keymount/keymount/pkg/secret"
)

const (
	// maxVaults bounds how many vaults have clients at hand: a class names any.
	maxVaults = 256
	// maxPause is the longest between two attempts: a vault that wants more
	// patience has no answer.
	maxPause = 10 * time.Second
)

// A vault has the clients of one Key Vault. They have no credentials: each call
// brings its own token, so that no request is made to ask what token is wanted.
// A token is only ever sent to hosts of the cloud that it is for. Safe for
// concurrent use.
type vault struct {
	pace         *pace
	secrets      *azsecrets.Client
	keys         *azkeys.Client
	certificates *azcertificates.Client
}

// vaults are those that were asked before, by their URLs.
type vaults struct {
	mu    sync.Mutex
	known map[string]*vault
}

// vaultAt returns the one at a URL.
func (p *Provider) vaultAt(url string) (*vault, error) {
	p.vaults.mu.Lock()
	defer p.vaults.mu.Unlock()
	if v := p.vaults.known[url]; v != nil {
		return v, nil
	}
	v, err := p.newVault(url)
	if err != nil {
		return nil, fmt.Errorf("vault %s: %w", url, err)
	}
	if p.vaults.known == nil || len(p.vaults.known) >= maxVaults {
		p.vaults.known = make(map[string]*vault)
	}
	p.vaults.known[url] = v
	return v, nil
}

func (p *Provider) newVault(url string) (v *vault, err error) {
	v = &vault{pace: newPace(p.settings.Rate)}
	options := p.options(p.settings.http)
	options.PerRetryPolicies = []policy.Policy{v.pace, authorization{}}
	if v.secrets, err = azsecrets.NewClient(url, nil, &azsecrets.ClientOptions{ClientOptions: options}); err != nil {
		return nil, err
	}
	if v.keys, err = azkeys.NewClient(url, nil, &azkeys.ClientOptions{ClientOptions: options}); err != nil {
		return nil, err
	}
	v.certificates, err = azcertificates.NewClient(url, nil, &azcertificates.ClientOptions{ClientOptions: options})
	return v, err
}

// options are those of all clients of the SDK.
func (p *Provider) options(client *http.Client) azcore.ClientOptions {
	return azcore.ClientOptions{
		Transport: client,
		Retry:     policy.RetryOptions{MaxRetries: 2, RetryDelay: p.pause, MaxRetryDelay: maxPause},
		Telemetry: policy.TelemetryOptions{ApplicationID: "keymount"}, // as Azure's logs show the client
	}
}

// A caller is on whose behalf a request is made. It goes along in the context.
type caller struct {
	token secret.Value
	first bool // a pod waits for it
}

type callerKey struct{}

func (c caller) in(ctx context.Context) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

func callerOf(req *policy.Request) caller {
	c, _ := req.Raw().Context().Value(callerKey{}).(caller)
	return c
}

// authorization is the policy that sends the caller's token.
type authorization struct{}

// Do implements policy.Policy.
func (authorization) Do(req *policy.Request) (*http.Response, error) {
	req.Raw().Header.Set("Authorization", "Bearer "+string(callerOf(req).token.Reveal()))
	return req.Next()
}
