package aws

import (
	"encoding/hex"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/aws/awstest"
)

// A backend is AWS in memory, with a role for the service account shop/web.
type backend struct {
	*awstest.Server
	home     *awstest.Region // where classes read
	away     *awstest.Region // where they fail over to
	service  service         // of Put
	provider *Provider
}

func newBackend(t testing.TB) *backend {
	t.Helper()
	return newBackendOf(t, secretsManager, nil)
}

func newBackendOf(t testing.TB, service service, opts *awstest.Options) *backend {
	t.Helper()
	s := awstest.New(t, opts)
	b := &backend{Server: s, home: s.Region(testRegion), away: s.Region(otherRegion), service: service}
	s.Role(testRole, awstest.Role{Subjects: []string{"system:serviceaccount:shop:web"}})
	b.provider = b.start(t)
	return b
}

func (b *backend) start(t testing.TB) *Provider {
	t.Helper()
	return b.startWith(t, &Options{})
}

// startWith returns a provider whose network is the backend, unless the options
// have another one.
func (b *backend) startWith(t testing.TB, opts *Options) *Provider {
	t.Helper()
	if opts.dial == nil {
		opts.dial = b.Dial
	}
	opts.roots = b.CAs()
	p := newProvider(t, opts)
	p.clients.pause = 10 * time.Millisecond
	return p
}

// ask returns a request of a pod of shop/web for objects.
func (b *backend) ask(objects string, parameters ...map[string]string) *provider.Request {
	all := map[string]string{"objects": objects}
	for _, more := range parameters {
		maps.Copy(all, more)
	}
	req := ask(all)
	req.Tokens = b.tokens("shop", "web")
	return req
}

func (b *backend) tokens(namespace, account string) provider.Tokens {
	tokens := make(provider.Tokens)
	for _, audience := range []string{webIdentityAudience, podIdentityAudience} {
		tokens[audience] = b.token(namespace, account, audience)
	}
	return tokens
}

func (b *backend) token(namespace, account, audience string) provider.Token {
	token := b.ServiceAccountToken(namespace, account, audience, time.Hour)
	return provider.Token{Value: secret.New([]byte(token)), Expires: time.Now().Add(time.Hour)}
}

func (b *backend) Provider() provider.Provider { return b.provider }

func (b *backend) Put(_ testing.TB, name string, value []byte) {
	if b.service == parameterStore {
		b.home.PutParameter(name, hex.EncodeToString(value))
		return
	}
	b.home.PutSecret(name, []byte(hex.EncodeToString(value)))
}

func (b *backend) Delete(_ testing.TB, name string) {
	if b.service == parameterStore {
		b.home.DeleteParameter(name)
		return
	}
	b.home.DeleteSecret(name)
}

func (b *backend) Request(_ testing.TB, objects ...providertest.Object) *provider.Request {
	var list strings.Builder
	for _, o := range objects {
		name := o.File
		if name == "" {
			name = o.Name
		}
		fmt.Fprintf(&list, "- {objectName: %q, objectType: %s, objectAlias: %q, encoding: hex, optional: %v", o.Name, b.service, name, o.Optional)
		if o.Mode != 0 {
			fmt.Fprintf(&list, ", filePermission: %#o", o.Mode)
		}
		list.WriteString("}\n")
	}
	req := b.ask(list.String(), map[string]string{"pathTranslation": "False"})
	req.Mode = 0
	return req
}

func (b *backend) Deny(_ testing.TB, name string) {
	for _, action := range []string{"secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret", "ssm:GetParameters"} {
		b.Server.Deny(testRole, action, name)
	}
}

func (b *backend) Break(testing.TB)  { b.home.Break() }
func (b *backend) Repair(testing.TB) { b.home.Repair() }

func (b *backend) Hang(testing.TB) <-chan struct{} { return b.home.Hang() }

func (b *backend) Limits() providertest.Limits {
	return providertest.Limits{Value: func(value []byte) string {
		switch {
		case len(value) == 0:
			return "AWS stores no empty value"
		case b.service == parameterStore && 2*len(value) > 8<<10, 2*len(value) > 64<<10:
			return "larger than AWS stores"
		}
		return ""
	}}
}

func TestSecretsManagerConforms(t *testing.T) {
	providertest.Run(t, func(t testing.TB) providertest.Backend { return newBackend(t) })
}

func TestParameterStoreConforms(t *testing.T) {
	providertest.Run(t, func(t testing.TB) providertest.Backend { return newBackendOf(t, parameterStore, nil) })
}

// Without the rights to the cheaper calls, a volume is as right and costs more.
func TestIdentitiesThatMayOnlyGetConform(t *testing.T) {
	providertest.Run(t, func(t testing.TB) providertest.Backend {
		b := newBackend(t)
		b.Server.Deny(testRole, "secretsmanager:BatchGetSecretValue", "")
		b.Server.Deny(testRole, "secretsmanager:DescribeSecret", "")
		return b
	})
}
