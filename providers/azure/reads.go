package azure

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azcertificates"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azkeys"
	"github.com/Azure/azure-sdk-for-go/sdk/security/keyvault/azsecrets"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// get reads one version; empty is the current one.
func (f *fetch) get(ctx context.Context, r *read, version string) (content, error) {
	get := map[objectKind]func(context.Context, string, string) (content, error){
		secretKind: f.vault.secret, keyKind: f.vault.key, certificateKind: f.vault.certificate,
	}[r.kind]
	var c content
	err := f.do(ctx, func(ctx context.Context) (err error) {
		c, err = get(ctx, r.name, version)
		return err
	})
	if err != nil {
		return c, f.failed(r, "get", err)
	}
	if c.id == "" {
		return c, f.failed(r, "get", fmt.Errorf("the answer has no version: %w", provider.ErrUnavailable))
	}
	return c, nil
}

func made(data []byte) *secret.Value {
	value := secret.New(data)
	return &value
}

func (v *vault) secret(ctx context.Context, name, version string) (content, error) {
	out, err := v.secrets.GetSecret(ctx, name, version, nil)
	if err != nil {
		return content{}, err
	}
	c := content{data: made([]byte(deref(out.Value))), format: deref(out.ContentType), managed: out.KID != nil}
	if out.ID != nil {
		c.id = out.ID.Version()
	}
	if out.Attributes != nil {
		c.expires = deref(out.Attributes.Expires)
	}
	return c, nil
}

func (v *vault) certificate(ctx context.Context, name, version string) (content, error) {
	out, err := v.certificates.GetCertificate(ctx, name, version, nil)
	if err != nil {
		return content{}, err
	}
	text, end := decodeCER(out.CER)
	c := content{data: made(text)}
	c.expires = end
	if out.ID != nil {
		c.id = out.ID.Version()
	}
	if out.Attributes != nil && out.Attributes.Expires != nil && (end.IsZero() || out.Attributes.Expires.Before(end)) {
		c.expires = *out.Attributes.Expires
	}
	return c, nil
}

func (v *vault) key(ctx context.Context, name, version string) (content, error) {
	out, err := v.keys.GetKey(ctx, name, version, nil)
	if err != nil {
		return content{}, err
	}
	if out.Key == nil {
		return content{}, nil
	}
	public, err := publicKey(out.Key)
	if err != nil {
		return content{}, fmt.Errorf("%w: %w", err, errKey)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return content{}, fmt.Errorf("its numbers make no key: %w", errKey)
	}
	c := content{data: made(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}
	if out.Key.KID != nil {
		c.id = out.Key.KID.Version()
	}
	if out.Attributes != nil {
		c.expires = deref(out.Attributes.Expires)
	}
	return c, nil
}

// errKey says that a key is none that can be written.
var errKey = fmt.Errorf("failed to get key: %w", provider.ErrInvalid)

// publicKey returns the key of a JSON Web Key (RFC 7518, section 6). The texts
// are those that people search for.
func publicKey(k *azkeys.JSONWebKey) (any, error) {
	switch kind := deref(k.Kty); kind {
	case azkeys.KeyTypeRSA, azkeys.KeyTypeRSAHSM:
		n, e := new(big.Int).SetBytes(k.N), new(big.Int).SetBytes(k.E)
		if n.Sign() <= 0 || !e.IsInt64() || e.Int64() > 1<<31-1 || e.Sign() <= 0 {
			return nil, errors.New("its numbers make no RSA key")
		}
		return &rsa.PublicKey{N: n, E: int(e.Int64())}, nil
	case azkeys.KeyTypeEC, azkeys.KeyTypeECHSM:
		curve := map[azkeys.CurveName]elliptic.Curve{
			azkeys.CurveNameP256: elliptic.P256(), azkeys.CurveNameP384: elliptic.P384(), azkeys.CurveNameP521: elliptic.P521(),
		}[deref(k.Crv)]
		if curve == nil {
			return nil, fmt.Errorf("curve %.20s is not supported", deref(k.Crv))
		}
		size := (curve.Params().BitSize + 7) / 8
		point := slices.Concat([]byte{4}, padded(k.X, size), padded(k.Y, size))
		return ecdsa.ParseUncompressedPublicKey(curve, point)
	default:
		return nil, fmt.Errorf("key type '%.20s' currently not supported", kind)
	}
}

// padded returns the number with zeros before it.
func padded(number []byte, size int) []byte {
	return append(make([]byte, max(0, size-len(number))), number...)
}

// list returns the versions that are enabled, from the one that the class names
// back, as many as it wants.
func (f *fetch) list(ctx context.Context, r *read) ([]version, error) {
	list := map[objectKind]func(context.Context, string) ([]version, error){
		secretKind: f.vault.secretVersions, keyKind: f.vault.keyVersions, certificateKind: f.vault.certificateVersions,
	}[r.kind]
	var all []version
	err := f.do(ctx, func(ctx context.Context) (err error) {
		all, err = list(ctx, r.name)
		return err
	})
	if err != nil {
		return nil, f.failed(r, "list the versions", err)
	}
	slices.SortFunc(all, func(a, b version) int {
		if order := b.created.Compare(a.created); order != 0 {
			return order
		}
		return slices.Compare([]byte(a.id), []byte(b.id)) // made in one second
	})
	if r.version != "" {
		start := slices.IndexFunc(all, func(v version) bool { return v.id == r.version })
		if start < 0 {
			return nil, f.failed(r, "list the versions", fmt.Errorf("it is not among those that are enabled: %w", provider.ErrNotFound))
		}
		all = all[start:]
	}
	return all[:min(len(all), r.history)], nil
}

// A pager is the SDK's, of any kind.
type pager[P any] interface {
	More() bool
	NextPage(context.Context) (P, error)
}

// maxPages bounds how many versions are looked at: 25 on a page.
const maxPages = 200

// collect returns the versions on all pages that take finds there.
func collect[P any](ctx context.Context, pages pager[P], take func(P) []version) ([]version, error) {
	var all []version
	for range maxPages {
		if !pages.More() {
			return all, nil
		}
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, take(page)...)
	}
	return nil, fmt.Errorf("it has more than %d pages of versions: %w", maxPages, provider.ErrInvalid)
}

func (v *vault) secretVersions(ctx context.Context, name string) ([]version, error) {
	return collect(ctx, v.secrets.NewListSecretPropertiesVersionsPager(name, nil), func(page azsecrets.ListSecretPropertiesVersionsResponse) (all []version) {
		for _, p := range page.Value {
			if a := p.Attributes; p.ID != nil && a != nil && deref(a.Enabled) {
				all = append(all, version{p.ID.Version(), deref(a.Created), deref(a.Expires)})
			}
		}
		return all
	})
}

func (v *vault) keyVersions(ctx context.Context, name string) ([]version, error) {
	return collect(ctx, v.keys.NewListKeyPropertiesVersionsPager(name, nil), func(page azkeys.ListKeyPropertiesVersionsResponse) (all []version) {
		for _, p := range page.Value {
			if a := p.Attributes; p.KID != nil && a != nil && deref(a.Enabled) {
				all = append(all, version{p.KID.Version(), deref(a.Created), deref(a.Expires)})
			}
		}
		return all
	})
}

func (v *vault) certificateVersions(ctx context.Context, name string) ([]version, error) {
	return collect(ctx, v.certificates.NewListCertificatePropertiesVersionsPager(name, nil), func(page azcertificates.ListCertificatePropertiesVersionsResponse) (all []version) {
		for _, p := range page.Value {
			if a := p.Attributes; p.ID != nil && a != nil && deref(a.Enabled) {
				all = append(all, version{p.ID.Version(), deref(a.Created), deref(a.Expires)})
			}
		}
		return all
	})
}

// deref returns what a pointer of the SDK is to, zero if it is nil.
func deref[T any](p *T) T {
	if p == nil {
		var zero T
		return zero
	}
	return *p
}
