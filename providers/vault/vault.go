// Package vault is a provider for HashiCorp Vault and OpenBao: static
// secrets, dynamic credentials and certificates. Classes of the products'
// own providers work as they are.
//
// # Parameters
//
// All but objects, roleName and audience begin with vault; with product
// OpenBao with bao, openbao or vault, of which the first that is present
// counts. Keys are case-sensitive, and what is not listed is ignored.
//
//	objects                  required; see below
//	roleName                 role to log in with; required by kubernetes and jwt
//	vaultAuthMethod          kubernetes (default), jwt, approle, cert or token
//	vaultAuthMountPath       mount of that method; also vaultKubernetesMountPath. Default: --vault-mount
//	                         (kubernetes), else the name of the method
//	audience                 of the service account token to log in with. Default: the product
//	vaultAddress             URL of the server. Default: --vault-addr, VAULT_ADDR, https://127.0.0.1:8200
//	vaultNamespace           of login and reads
//	vaultCACertPath, vaultCADirectory, vaultTLSServerName, vaultTLSClientCertPath,
//	vaultTLSClientKeyPath, vaultSkipTLSVerify
//	                         TLS, by files of the provider; these are looked at again when they change
//
// The parameter objects is a YAML list of maps; fields match without regard to
// case, and unknown ones are ignored:
//
//	objectName      the file in the volume; may contain slashes. Required, and unique
//	secretPath      what to read, with or without /v1/; may have a query (?version=2). Required
//	secretKey       the field to write. Without it the file is the whole answer as JSON
//	method          GET (default), LIST, PUT or POST
//	secretArgs      fields to send as JSON
//	encoding        utf-8 (default), base64 or hex: how the field stands for the bytes
//	filePermission  octal, quoted or not. Default: what the driver asks for
//	optional        true: leave the file out of the volume while path or key do not exist
//
// Objects with the same method, secretPath and secretArgs are made of one
// answer. A field that is text gives its bytes; any other compact JSON. A key
// is looked up among the data, and with version 2 of the key-value engine
// among the data of the version; the dots of a.b descend, unless there is a
// field of that very name.
//
// # Authentication
//
// The kubernetes and jwt methods log in with the pod's own service account
// token. The others take what the Secret has that nodePublishSecretRef names:
// role_id and secret_id, tls.crt and tls.key, or token. A token of the
// environment is never used. The identity is the service account, so pods of
// one may share a token of the server; every request must prove the identity
// anew. A token is renewed at two thirds of its life and revoked when nobody
// has used it for 15 minutes. Who is denied logs in again only if its token is
// dead, or old enough that its role may have other policies now.
//
// # Leases
//
// What is leased, and certificates from issue and sign, are made once for each
// volume, with a token that is for nothing else. They are renewed when the
// driver asks, and made anew when the server renews them no further; what they
// replace is revoked one renewal later. Release revokes the token, and with it
// every lease, which no policy needs to allow. Close leaves them alone: pods
// go on. After a restart leases are renewed with another token of the identity
// while the one that they were taken with may live, and made anew after that.
//
// # Versions
//
// An object's ID is its objectName. Its version says which version of the
// key-value engine it is of, or which lease; of anything else it is an HMAC of
// the content, under a key that lives as long as the Provider. An unchanged
// poll of version 2 of the key-value engine asks for the metadata of each
// secret, where policies allow that, and for no value.
//
// # Errors
//
// Not found: 404, or no such key. Denied: 401, 403, or a login that is
// refused. Invalid: parameters, and other answers of 400 to 499. Unavailable:
// 412, 429, 5xx (sealed servers among them) and no answer; requests are made
// three times, and Retry-After is honoured. The server's own words are part of
// the error.
package vault

import (
	"context"
	"crypto/rand"
	"fmt"

	"github.com/keymount/keymount/pkg/provider"
)

// A Provider reads secrets from servers with the Vault API. It is safe for
// concurrent use.
type Provider struct {
	product     Product
	settings    settings
	macKey      []byte // of fingerprints and versions; lives as long as the Provider
	connections connections
	sessions    sessions
	tenures     tenures
	learned     memory // what kind of answer a read has
	blind       memory // who may not see metadata
}

// New returns a Provider for classes of the product. Its life ends with Close.
func New(product Product, opts *Options) (*Provider, error) {
	s, err := opts.settings(product)
	if err != nil {
		return nil, err
	}
	p := &Provider{product: product, settings: s, macKey: make([]byte, 32)}
	p.connections = connections{settings: s, pools: make(map[endpoint]*connection)}
	p.sessions.known = make(map[string]*entry)
	p.tenures.known, p.tenures.released = make(map[string]*tenure), make(map[string]bool)
	_, err = rand.Read(p.macKey)
	return p, err
}

// Fetch implements provider.Provider.
func (p *Provider) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	q, err := p.parse(req)
	if err != nil {
		return nil, err
	}
	f := &fetch{
		Provider: p, query: q, held: req.Held, mounts: make(map[*read]mount), answers: make(map[*read]*answer),
		conn: p.connections.to(q.endpoint, q.login.certificate),
	}
	bundle, err := f.run(ctx)
	if err == nil && ctx.Err() != nil { // nobody is there to take what was issued
		err = fmt.Errorf("%w: %w", context.Cause(ctx), provider.ErrUnavailable)
	}
	if err != nil {
		if f.issued != nil {
			p.tenures.drop(f.issued)
		}
		return nil, err
	}
	return bundle, nil
}

// Close revokes the tokens on which no lease hangs, and waits for what is in
// progress, about ten seconds at most. What pods hold lives on. No call may be
// in progress or follow.
func (p *Provider) Close() error {
	p.sessions.close()
	p.tenures.close()
	p.connections.close()
	return nil
}
