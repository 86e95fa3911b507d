package vault

import (
	"errors"
	"io/fs"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// newProvider returns a provider that has asked no server anything yet.
func newProvider(t testing.TB, product Product, opts *Options) *Provider {
	t.Helper()
	p, err := New(product, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return p
}

// ask returns a request that can be answered, with the parameters on top.
func ask(product Product, parameters map[string]string) *provider.Request {
	req := &provider.Request{
		Parameters: map[string]string{"roleName": "shop", "objects": "- {objectName: a, secretPath: secret/data/a, secretKey: k}"},
		Pod:        provider.Pod{Namespace: "shop", Name: "web-0", UID: "uid-0", ServiceAccount: "web"},
		Tokens:     provider.Tokens{string(product): {Value: secret.New([]byte("jwt"))}},
		Mode:       0o644,
	}
	maps.Copy(req.Parameters, parameters)
	maps.DeleteFunc(req.Parameters, func(_, value string) bool { return value == "-" })
	return req
}

// seen is what tests compare of a query.
type seen struct {
	Address, Namespace, Method, Mount, Role, Who string
	Endpoint                                     endpoint
}

func look(q *query) seen {
	return seen{q.endpoint.address, q.namespace, q.login.method, q.login.mount, q.login.role, q.login.who, q.endpoint}
}

func TestClassesOfBothProductsAreRead(t *testing.T) {
	for _, c := range []struct {
		name       string
		product    Product
		parameters map[string]string
		want       func(*seen)
	}{
		{"a class that says nothing", Vault, nil, func(*seen) {}},
		{"all that a class can say", Vault, map[string]string{
			"vaultAddress": "https://v.example:8200", "vaultNamespace": "team/a", "vaultKubernetesMountPath": "k8s/prod",
			"vaultCACertPath": "/ca", "vaultTLSServerName": "v", "vaultTLSClientCertPath": "/c", "vaultTLSClientKeyPath": "/k", "vaultSkipTLSVerify": "TRUE",
		}, func(s *seen) {
			s.Address, s.Namespace, s.Mount = "https://v.example:8200", "team/a", "k8s/prod"
			s.Endpoint = endpoint{address: s.Address, serverName: "v", skipVerify: true, files: files{caCert: "/ca", clientCert: "/c", clientKey: "/k"}}
		}},
		{"the newer name of the mount", Vault, map[string]string{"vaultAuthMountPath": "/jwt-prod/"}, func(s *seen) { s.Mount = "jwt-prod" }},
		{"an empty parameter says nothing", Vault, map[string]string{"vaultAddress": "", "vaultNamespace": "", "vaultAuthMountPath": "", "audience": ""}, func(*seen) {}},
		{"keys are case-sensitive and unknown ones ignored", Vault, map[string]string{"vaultaddress": "x", "VaultNamespace": "x", "baoAddress": "x", "colour": "blue"}, func(*seen) {}},
		{"an authority of the class replaces those of the flags", Vault, map[string]string{"vaultCADirectory": "/cas"}, func(s *seen) { s.Endpoint.caDirectory = "/cas" }},
		{"the jwt method has a mount of its own", Vault, map[string]string{"vaultAuthMethod": "JWT"}, func(s *seen) { s.Method, s.Mount = "jwt", "jwt" }},
		{"openbao reads bao first", OpenBao, map[string]string{
			"baoAddress": "https://b", "openbaoAddress": "https://o", "vaultAddress": "https://v", "openbaoNamespace": "o", "vaultNamespace": "v", "vaultAuthMountPath": "m",
		}, func(s *seen) {
			s.Address, s.Endpoint.address, s.Namespace, s.Mount = "https://b", "https://b", "o", "m"
		}},
		{"the first that is present wins even if it is empty", OpenBao, map[string]string{"baoAddress": "", "vaultAddress": "https://v"}, func(*seen) {}},
		{"openbao has its role under each prefix", OpenBao, map[string]string{"roleName": "-", "openbaoRoleName": "shop"}, func(*seen) {}},
		{"and the prefix before the plain name", OpenBao, map[string]string{"roleName": "other", "vaultRoleName": "shop"}, func(*seen) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, err := newProvider(t, c.product, nil).parse(ask(c.product, c.parameters))
			if err != nil {
				t.Fatal(err)
			}
			want := seen{
				Address: defaultAddress, Method: "kubernetes", Mount: "kubernetes", Role: "shop",
				Who:      `service account shop/web with role "shop" and audience "` + string(c.product) + `"`,
				Endpoint: endpoint{address: defaultAddress},
			}
			c.want(&want)
			if diff := cmp.Diff(want, look(q), cmp.AllowUnexported(endpoint{}, files{})); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestClassesThatCannotBeMeant(t *testing.T) {
	for _, c := range []struct {
		name       string
		product    Product
		parameters map[string]string
		want       string
	}{
		{"no role", Vault, map[string]string{"roleName": "-"}, `missing 'roleName' in SecretProviderClass definition: invalid`},
		{"no objects", Vault, map[string]string{"objects": "-"}, `parameter "objects": no secrets configured - the provider will not read any secret material: invalid`},
		{"an empty list", Vault, map[string]string{"objects": "[]"}, `no secrets configured - the provider will not read any secret material: parameter "objects" lists nothing: invalid`},
		{"both mounts", Vault, map[string]string{"vaultKubernetesMountPath": "a", "vaultAuthMountPath": ""}, `cannot set both vaultKubernetesMountPath and vaultAuthMountPath: invalid`},
		{"both mounts across prefixes", OpenBao, map[string]string{"baoKubernetesMountPath": "a", "vaultAuthMountPath": "a"}, `cannot set both openbaoKubernetesMountPath and openbaoAuthMountPath: invalid`},
		{"a bool that is none", Vault, map[string]string{"vaultSkipTLSVerify": "yes"}, `parameter "vaultSkipTLSVerify": want true or false: invalid`},
		{"the prefix that was used is named", OpenBao, map[string]string{"openbaoSkipTLSVerify": "yes"}, `parameter "openbaoSkipTLSVerify": want true or false: invalid`},
		{"an address without a scheme", Vault, map[string]string{"vaultAddress": "vault:8200"}, `the address "vault:8200" must be a URL such as https://vault.example:8200: invalid`},
		{"a password in the address", Vault, map[string]string{"vaultAddress": "https://u:c4n4ry@v"}, `the address must be a URL such as https://vault.example:8200: invalid`},
		{"a namespace of two lines", Vault, map[string]string{"vaultNamespace": "a\nX-Vault-Token: b"}, `the namespace of the server must be text without control characters: invalid`},
		{"half a client certificate", Vault, map[string]string{"vaultTLSClientCertPath": "/c"}, `a client certificate needs its key, and a key its certificate: invalid`},
		{"a mount that climbs", Vault, map[string]string{"vaultAuthMountPath": "../sys"}, `must have no "..": invalid`},
		{"a method that is none", Vault, map[string]string{"vaultAuthMethod": "ldap"}, `parameter "vaultAuthMethod": want kubernetes, jwt, approle, cert or token: invalid`},
		{"objects twice", Vault, map[string]string{"objects": "[{objectName: b, secretPath: x}, {objectName: a, secretPath: x}, {objectName: b, secretPath: y}, {objectName: a, secretPath: y}]"}, "each `objectName` within a SecretProviderClass must be unique, but the following keys were duplicated: a, b: invalid"},
		{"a file below a file", Vault, map[string]string{"objects": "[{objectName: a, secretPath: x}, {objectName: a/b, secretPath: x}]"}, `invalid file "a": it is also a directory of "a/b": invalid`},
		{"the same file in other words", Vault, map[string]string{"objects": "[{objectName: a, secretPath: x}, {objectName: ./a, secretPath: x}]"}, `invalid file "./a": the shortest form of the path is "a": invalid`},
		{"a file outside", Vault, map[string]string{"objects": "[{objectName: ../a, secretPath: x}]"}, `invalid file "../a": an element of the path starts with "..": invalid`},
		{"no name", Vault, map[string]string{"objects": "[{secretPath: x}]"}, `objects[0]: objectName, the name of the file, must be set: invalid`},
		{"no path", Vault, map[string]string{"objects": "[{objectName: a}]"}, `objects[0]: secretPath must be set, such as secret/data/db: invalid`},
		{"only v1", Vault, map[string]string{"objects": "[{objectName: a, secretPath: /v1/}]"}, `objects[0]: secretPath must be set, such as secret/data/db: invalid`},
		{"a path that climbs", Vault, map[string]string{"objects": "[{objectName: a, secretPath: secret/../sys/raw}]"}, `objects[0]: secretPath must have no "..": invalid`},
		{"an odd query", Vault, map[string]string{"objects": `[{objectName: a, secretPath: "a?%zz"}]`}, `objects[0]: secretPath has a malformed query after the question mark: invalid`},
		{"a method with a space", Vault, map[string]string{"objects": `[{objectName: a, secretPath: a, method: "GET /x"}]`}, `objects[0]: method must be a word such as GET, LIST, PUT or POST: invalid`},
		{"arguments that are no fields", Vault, map[string]string{"objects": `[{objectName: a, secretPath: a, secretArgs: [c4n4ry]}]`}, `objects[0]: secretArgs must be fields: invalid`},
		{"an encoding that is none", Vault, map[string]string{"objects": `[{objectName: a, secretPath: a, encoding: c4n4ry}]`}, `objects[0].encoding: invalid encoding type. Should be utf-8, base64, or hex: invalid`},
		{"a mode that is none", Vault, map[string]string{"objects": `[{objectName: a, secretPath: a, filePermission: rw}]`}, `objects[0].filePermission: want permission bits up to 0777 in octal, such as 0640 or "0640": invalid`},
		{"a field twice", Vault, map[string]string{"objects": "- objectName: a\n  objectName: b\n  secretPath: a"}, `objects[0] sets "objectName" twice: invalid`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := newProvider(t, c.product, nil).parse(ask(c.product, c.parameters))
			if err == nil || err.Error() != c.want {
				t.Errorf("parse() error = %v, want %s", err, c.want)
			}
			if !errors.Is(err, provider.ErrInvalid) {
				t.Errorf("error %v does not wrap ErrInvalid", err)
			}
		})
	}
}

// item is what tests compare of an object.
type item struct {
	Name, Method, Path, Query, Body, Key, Encoding string
	Mode                                           fs.FileMode
	Optional                                       bool
}

func TestObjectsAreRead(t *testing.T) {
	plain := item{Name: "a", Method: "GET", Path: "secret/data/a", Mode: 0o644}
	with := func(change func(*item)) item { i := plain; change(&i); return i }
	for _, c := range []struct {
		name, objects string
		want          item
	}{
		{"a whole answer", "- {objectName: a, secretPath: secret/data/a}", plain},
		{"a key", "- {objectName: a, secretPath: secret/data/a, secretKey: api.key-1}", with(func(i *item) { i.Key = "api.key-1" })},
		{"folders in the name", "- {objectName: x/y/a, secretPath: secret/data/a}", with(func(i *item) { i.Name = "x/y/a" })},
		{"unknown fields are ignored", "- {objectName: a, secretPath: secret/data/a, secretVersion: 3, note: {x: [1]}}", plain},
		{"fields in any case", "- {objectname: a, SecretPath: secret/data/a}", plain},
		{"the list of another provider", "array:\n- |\n  objectName: a\n  secretPath: secret/data/a", plain},
		{"a mode in octal", "- {objectName: a, secretPath: secret/data/a, filePermission: 0624}", with(func(i *item) { i.Mode = 0o624 })},
		{"a mode in octal of today", "- {objectName: a, secretPath: secret/data/a, filePermission: 0o600}", with(func(i *item) { i.Mode = 0o600 })},
		{"a mode in decimal", "- {objectName: a, secretPath: secret/data/a, filePermission: 420}", with(func(i *item) { i.Mode = 0o644 })},
		{"a mode in quotes", `- {objectName: a, secretPath: secret/data/a, filePermission: "0624"}`, with(func(i *item) { i.Mode = 0o624 })},
		{"a mode of zero is none", "- {objectName: a, secretPath: secret/data/a, filePermission: 0}", plain},
		{"an encoding in any case", "- {objectName: a, secretPath: secret/data/a, secretKey: k, encoding: BASE64}", with(func(i *item) { i.Key, i.Encoding = "k", "base64" })},
		{"the encoding that is none", "- {objectName: a, secretPath: secret/data/a, encoding: utf-8}", plain},
		{"the method is sent as it is", "- {objectName: a, secretPath: secret/data/a, method: LiSt}", with(func(i *item) { i.Method = "LiSt" })},
		{"arguments are JSON, in order, numbers as they are written", "- {objectName: a, secretPath: secret/data/a, method: PUT, secretArgs: {ttl: 24h, bits: 2048, alt: [b, {c: true}], none: }}",
			with(func(i *item) {
				i.Method, i.Body = "PUT", `{"alt":["b",{"c":true}],"bits":2048,"none":null,"ttl":"24h"}`
			})},
		{"arguments are sent with GET too", "- {objectName: a, secretPath: secret/data/a, secretArgs: {x: y}}", with(func(i *item) { i.Body = `{"x":"y"}` })},
		{"no arguments are no body", "- {objectName: a, secretPath: secret/data/a, secretArgs: {}}", plain},
		{"optional", "- {objectName: a, secretPath: secret/data/a, optional: true}", with(func(i *item) { i.Optional = true })},
		{"a query", `- {objectName: a, secretPath: "secret/data/a?version=2&x=%20"}`, with(func(i *item) { i.Query = "version=2&x=+" })},
		{"a question mark alone", `- {objectName: a, secretPath: "secret/data/a?"}`, plain},
	} {
		t.Run(c.name, func(t *testing.T) {
			q, err := newProvider(t, Vault, nil).parse(ask(Vault, map[string]string{"objects": c.objects}))
			if err != nil {
				t.Fatal(err)
			}
			o := q.objects[0]
			got := item{o.name, o.read.method, o.read.path, o.read.query.Encode(), string(o.read.body), o.key, string(o.encoding), o.mode, o.optional}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

func TestPathsMayHaveTheirPrefixOrNot(t *testing.T) {
	for in, want := range map[string]string{
		"/v1/x": "x", "v1/x": "x", "/x": "x", "x": "x", "/v2/x": "v2/x", "x/": "x", "a//b": "a/b", "v1/v1/x": "v1/x", "a b/ü": "a b/ü", "a%20b": "a%20b",
	} {
		if got, _, err := parsePath(in); err != nil || got != want {
			t.Errorf("parsePath(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestReadsAreOneWhereTheServerSeesNoDifference(t *testing.T) {
	for name, c := range map[string]struct {
		objects string
		want    int
	}{
		"two keys of one path":            {"[{objectName: a, secretPath: x, secretKey: u}, {objectName: b, secretPath: /v1/x, secretKey: p, method: GET}]", 1},
		"two paths":                       {"[{objectName: a, secretPath: x}, {objectName: b, secretPath: y}]", 2},
		"two methods":                     {"[{objectName: a, secretPath: x}, {objectName: b, secretPath: x, method: LIST}]", 2},
		"two versions":                    {`[{objectName: a, secretPath: "x?version=1"}, {objectName: b, secretPath: "x?version=2"}]`, 2},
		"two certificates of one path":    {"[{objectName: a, secretPath: pki/issue/x, method: PUT, secretArgs: {common_name: a}}, {objectName: b, secretPath: pki/issue/x, method: PUT, secretArgs: {common_name: b}}]", 2},
		"a certificate and its key":       {"[{objectName: a, secretPath: pki/issue/x, method: PUT, secretKey: certificate, secretArgs: {common_name: a, ttl: 1h}}, {objectName: b, secretPath: pki/issue/x, method: PUT, secretKey: private_key, secretArgs: {ttl: 1h, common_name: a}}]", 1},
		"what one needs and one may lack": {"[{objectName: a, secretPath: x, optional: true}, {objectName: b, secretPath: x}]", 1},
	} {
		q, err := newProvider(t, Vault, nil).parse(ask(Vault, map[string]string{"objects": c.objects}))
		if err != nil || len(q.reads) != c.want {
			t.Errorf("%s: %v, error %v, want %d reads", name, q, err, c.want)
			continue
		}
		for _, o := range q.objects {
			if o.read.optional && strings.Contains(name, "one needs") {
				t.Errorf("%s: the read must be optional only if all objects are", name)
			}
		}
	}
}

func TestEveryRequestProvesWhoItIsFrom(t *testing.T) {
	for _, c := range []struct {
		name    string
		change  func(*provider.Request)
		missing string // audience
	}{
		{"no token", func(r *provider.Request) { r.Tokens = nil }, "vault"},
		{"a token of another audience", func(r *provider.Request) { r.Parameters["audience"] = "bank" }, "bank"},
		{"an expired token", func(r *provider.Request) {
			r.Tokens["vault"] = provider.Token{Value: secret.New([]byte("jwt")), Expires: time.Now().Add(-time.Second)}
		}, "vault"},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := ask(Vault, nil)
			c.change(req)
			_, err := newProvider(t, Vault, nil).parse(req)
			var missing *provider.MissingTokenError
			if !errors.As(err, &missing) || missing.Audience != c.missing {
				t.Errorf("parse() error = %v, want a MissingTokenError for %q", err, c.missing)
			}
		})
	}
}

func TestSecretsOfThePodProveIdentity(t *testing.T) {
	for _, c := range []struct {
		name, method string
		credentials  map[string]string
		want         string
	}{
		{"no Secret", "approle", nil, "the Secret that the pod's nodePublishSecretRef names must have the key \"role_id\": invalid\nthe Secret that the pod's nodePublishSecretRef names must have the key \"secret_id\": invalid"},
		{"half an AppRole", "approle", map[string]string{"role_id": "c4n4ry"}, `the Secret that the pod's nodePublishSecretRef names must have the key "secret_id": invalid`},
		{"no token", "token", map[string]string{"token": ""}, `the Secret that the pod's nodePublishSecretRef names must have the key "token": invalid`},
		{"no certificate", "cert", map[string]string{"tls.crt": "c4n4ry", "tls.key": "c4n4ry"}, `tls.crt and tls.key of the Secret that nodePublishSecretRef names are not a certificate and its key: invalid`},
	} {
		t.Run(c.name, func(t *testing.T) {
			req := ask(Vault, map[string]string{"vaultAuthMethod": c.method, "roleName": "-"})
			req.Tokens, req.Credentials = nil, make(map[string]secret.Value)
			for name, value := range c.credentials {
				req.Credentials[name] = secret.New([]byte(value))
			}
			_, err := newProvider(t, Vault, nil).parse(req)
			if err == nil || err.Error() != c.want || !errors.Is(err, provider.ErrInvalid) {
				t.Errorf("parse() error = %v, want %s", err, c.want)
			}
		})
	}
}

func TestIdentitiesAreSharedByNobodyElse(t *testing.T) {
	p := newProvider(t, Vault, nil)
	base := func() *provider.Request { return ask(Vault, nil) }
	identity := func(change func(*provider.Request)) string {
		t.Helper()
		req := base()
		change(req)
		q, err := p.parse(req)
		if err != nil {
			t.Fatal(err)
		}
		return q.login.identity
	}
	same := identity(func(*provider.Request) {})
	for name, change := range map[string]func(*provider.Request){
		"another pod":     func(r *provider.Request) { r.Pod.Name, r.Pod.UID = "web-1", "uid-1" },
		"a newer token":   func(r *provider.Request) { r.Tokens["vault"] = provider.Token{Value: secret.New([]byte("newer"))} },
		"another object":  func(r *provider.Request) { r.Parameters["objects"] = "- {objectName: b, secretPath: b}" },
		"another default": func(r *provider.Request) { r.Mode = 0o640 },
	} {
		if identity(change) != same {
			t.Errorf("%s: another identity, want the same", name)
		}
	}
	seen := map[string]string{same: "the first"}
	for name, change := range map[string]func(*provider.Request){
		"another service account": func(r *provider.Request) { r.Pod.ServiceAccount = "worker" },
		"another namespace":       func(r *provider.Request) { r.Pod.Namespace = "bank" },
		"another role":            func(r *provider.Request) { r.Parameters["roleName"] = "admin" },
		"another audience":        func(r *provider.Request) { r.Parameters["audience"], r.Tokens["x"] = "x", r.Tokens["vault"] },
		"another mount":           func(r *provider.Request) { r.Parameters["vaultAuthMountPath"] = "k" },
		"another server":          func(r *provider.Request) { r.Parameters["vaultAddress"] = "https://b" },
		"a server namespace":      func(r *provider.Request) { r.Parameters["vaultNamespace"] = "b" },
		"another authority":       func(r *provider.Request) { r.Parameters["vaultCACertPath"] = "/b" },
		"another method":          func(r *provider.Request) { r.Parameters["vaultAuthMethod"] = "jwt" },
		"a token":                 byToken("one"),
		"another token":           byToken("two"),
	} {
		id := identity(change)
		if other, taken := seen[id]; taken {
			t.Errorf("%s has the identity of %s", name, other)
		}
		seen[id] = name
	}
}

func byToken(token string) func(*provider.Request) {
	return func(r *provider.Request) {
		r.Parameters["vaultAuthMethod"] = "token"
		r.Credentials = map[string]secret.Value{"token": secret.New([]byte(token))}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("secret/data/a?version=2", "k", "PUT", "0640", "https://v", "kubernetes")
	f.Add("/v1/../x", "", "", "", "unix:///s", "jwt")
	f.Fuzz(func(t *testing.T, path, key, method, mode, address, auth string) {
		p, err := New(OpenBao, nil)
		if err != nil {
			t.Fatal(err)
		}
		list := "- objectName: a\n  secretPath: " + path + "\n  secretKey: " + key + "\n  method: " + method + "\n  filePermission: " + mode
		q, err := p.parse(ask(OpenBao, map[string]string{"objects": list, "baoAddress": address, "baoAuthMethod": auth}))
		switch {
		case err != nil && provider.Reason(err) != "Invalid":
			t.Errorf("error %v, want ErrInvalid", err)
		case err == nil:
			c := p.connections.to(q.endpoint, nil)
			if _, base, err := c.client(); err == nil {
				for _, r := range q.reads {
					if request, err := r.call().request(t.Context(), base); err == nil && !strings.HasPrefix(request.URL.Path, base.Path+"/v1/") {
						t.Errorf("%v leaves the API: %s", r, request.URL)
					}
				}
			}
		}
	})
}
