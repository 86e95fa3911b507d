package vaulttest_test

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/providers/vault/vaulttest"
)

// To record the answers anew, start a real server and a PostgreSQL that has a
// user root (password rootpw) and a user app:
//
//	bao server -dev -dev-tls -dev-root-token-id=root
//	PG=postgresql://{{username}}:{{password}}@127.0.0.1:5432/postgres?sslmode=disable go test -run Wire . -record https://127.0.0.1:8200
var record = flag.String("record", "", "address of a real server whose answers are written to testdata/wire.txt")

const transcript = "testdata/wire.txt"

// TestWire holds a conversation with the server, and compares the answers
// with those of a real one.
func TestWire(t *testing.T) {
	want, err := os.ReadFile(transcript)
	if err != nil {
		t.Fatal(err)
	}
	if *record != "" {
		got := newConversation(t, nil).hold(string(want))
		if err := os.WriteFile(transcript, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(26*365*24*time.Hour + 123456789*time.Nanosecond) // to a time with as many digits as that of the recording
		got := newConversation(t, &vaulttest.Options{Pipe: true}).hold(string(want))
		if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
			t.Errorf("the answers differ from those of the real server (-real +got):\n%s", diff)
		}
	})
}

// A conversation sends the requests of a transcript.
type conversation struct {
	t         testing.TB
	s         *vaulttest.Server
	url       string
	vars      map[string]string
	certs     map[string]tls.Certificate
	token     string
	namespace string
	cert      string
	last      []byte // the last answer
}

func newConversation(t *testing.T, opts *vaulttest.Options) *conversation {
	s := vaulttest.New(t, opts)
	ca, good := clientCertificate(t, opts)
	_, bad := clientCertificate(t, opts)
	c := &conversation{t: t, s: s, url: s.URL, certs: map[string]tls.Certificate{"good": good, "bad": bad}}
	c.vars = map[string]string{
		"K8S": s.URL, "K8S_CA": string(s.CAPEM()), "JWT_KEY": string(s.TokenKeyPEM()), "PG": os.Getenv("PG"), "CLIENT_CA": string(ca), "CSR": request(t),
		"SQL":             `CREATE ROLE "{{name}}" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}';`,
		"GOOD":            s.ServiceAccountToken("ns1", "app", "vault", time.Hour),
		"OTHER_ACCOUNT":   s.ServiceAccountToken("ns1", "x", "vault", time.Hour),
		"OTHER_NAMESPACE": s.ServiceAccountToken("ns2", "app", "vault", time.Hour),
		"OTHER_AUDIENCE":  s.ServiceAccountToken("ns1", "app", "aws", time.Hour),
		"EXPIRED":         s.ServiceAccountToken("ns1", "app", "vault", -time.Hour),
		"FORGED":          vaulttest.New(t, opts).ServiceAccountToken("ns1", "app", "vault", time.Hour),
		"root":            vaulttest.RootToken, "nobody": "",
	}
	if *record != "" {
		c.url, c.vars["ROLE_ID"], c.vars["SECRET_ID"] = *record, "role-1", "secret-1"
		s.Respond("/apis/authentication.k8s.io/v1/tokenreviews", c.reviewTokens)
		return c
	}
	allow := []string{"kv1/", "kv2/data/", "db/", "pki/"}
	all := vaulttest.Grant{TTL: 2 * time.Minute, MaxTTL: time.Hour, Allow: allow}
	for _, n := range []*vaulttest.Namespace{s.Namespace, s.In("team")} {
		n.KV2("kv2")
		n.Database("db").Role("ro", vaulttest.Lifetime{TTL: time.Minute, MaxTTL: 10 * time.Minute})
		n.Kubernetes("kubernetes").Role("all", vaulttest.Role{Namespace: "ns1", ServiceAccount: "app", Audience: "vault", Grant: all})
	}
	s.KV1("kv1")
	s.Database("db").Static("app", vaulttest.StaticRole{Username: "app", Password: "canary", Rotation: time.Hour})
	s.PKI("pki").Role("leased", vaulttest.PKIRole{MaxTTL: 24 * time.Hour, Leased: true})
	s.PKI("pki").Role("web", vaulttest.PKIRole{TTL: time.Hour, MaxTTL: 24 * time.Hour, Domains: []string{"example.org"}, RSA: true})
	s.Kubernetes("kubernetes").Role("other", vaulttest.Role{Namespace: "yy", ServiceAccount: "zz", Audience: "vault"})
	s.Kubernetes("kubernetes").Role("open", vaulttest.Role{})
	s.Kubernetes("kubernetes").Role("batch", vaulttest.Role{Audience: "vault", Grant: vaulttest.Grant{TTL: 30 * time.Second, Batch: true, Allow: []string{"db/"}}})
	s.Kubernetes("kubernetes").Role("period", vaulttest.Role{Audience: "vault", Grant: vaulttest.Grant{Period: 2 * time.Minute}})
	s.JWT("jwt").Role("all", vaulttest.Role{Namespace: "ns1", ServiceAccount: "app", Audience: "vault", Grant: all})
	s.JWT("jwt").Role("none", vaulttest.Role{Namespace: "ns1", ServiceAccount: "app"})
	c.vars["ROLE_ID"], c.vars["SECRET_ID"] = s.AppRole("approle").Role("all", all)
	s.Cert("cert").Role("all", vaulttest.CertRole{CA: ca, Grant: all})
	s.Cert("cert").Role("named", vaulttest.CertRole{CA: ca, CommonName: "zz"})
	return c
}

// hold sends the requests, and returns the transcript with the answers.
func (c *conversation) hold(script string) string {
	c.t.Helper()
	var out strings.Builder
	for line := range strings.SplitSeq(strings.TrimSuffix(script, "\n"), "\n") {
		verb, rest, _ := strings.Cut(line, " ")
		switch verb {
		case "#", "":
		case "as":
			c.token = c.vars[rest]
		case "in":
			c.namespace = rest
		case "certificate":
			c.cert = rest
		case "keep":
			name, path, _ := strings.Cut(rest, " ")
			c.vars[name] = field(c.t, c.last, path)
		case "!":
			c.setUp(rest)
		case "sealed":
			c.s.Seal()
		case ">":
			out.WriteString(line + "\n" + c.send(rest) + "\n")
			continue
		default: // an answer, which is written anew
			continue
		}
		out.WriteString(line + "\n")
	}
	return out.String()
}

// setUp sends a request to a real server.
func (c *conversation) setUp(request string) {
	c.t.Helper()
	if *record == "" {
		return
	}
	token := c.token
	c.token = vaulttest.RootToken
	if answer := c.send(request); answer[0] != '2' {
		c.t.Fatalf("%s: %s", request, answer)
	}
	c.token = token
}

// send returns the answer to the request as the transcript has it.
func (c *conversation) send(request string) string {
	c.t.Helper()
	method, rest, _ := strings.Cut(request, " ")
	path, body, _ := strings.Cut(rest, " ")
	path = os.Expand(path, func(name string) string { return c.vars[name] })
	body = os.Expand(body, func(name string) string {
		quoted, err := json.Marshal(c.vars[name])
		if err != nil {
			c.t.Fatal(err)
		}
		return string(bytes.Trim(quoted, `"`))
	})
	r, err := http.NewRequestWithContext(c.t.Context(), method, c.url+"/v1/"+path, strings.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Header.Set("X-Vault-Token", c.token)
	r.Header.Set("X-Vault-Namespace", c.namespace)
	r.Header.Set("Content-Type", "application/json")
	config := &tls.Config{InsecureSkipVerify: true} // of a dev server
	if c.cert != "" {
		config.Certificates = []tls.Certificate{c.certs[c.cert]}
	}
	transport := &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}
	if *record == "" {
		transport.DialContext = c.s.Dial
	}
	resp, err := transport.RoundTrip(r)
	if err != nil {
		c.t.Fatalf("%s: %v", request, err)
	}
	defer resp.Body.Close()
	if c.last, err = io.ReadAll(resp.Body); err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(strconv.Itoa(resp.StatusCode) + " " + normal(strings.TrimSpace(string(c.last))))
}

// field returns the text at the path of the JSON value.
func field(t testing.TB, raw []byte, path string) string {
	t.Helper()
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		t.Fatal(err)
	}
	for name := range strings.SplitSeq(path, ".") {
		object, ok := value.(map[string]any)
		if !ok {
			t.Fatalf("%s is not in %s", path, raw)
		}
		value = object[name]
	}
	text, _ := value.(string)
	return text
}

// varying are the parts of answers that are never the same, and what the
// transcript has for them.
var varying = []struct{ pattern, replacement string }{
	{`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, "UUID"},
	{`UUID\.\w{6}`, "UUID.NS"},
	{`"s\.\w{24}\.\w{6}"`, `"s.TOKEN.NS"`},
	{`"s\.\w{24}"`, `"s.TOKEN"`},
	{`"b\.[\w-]+"`, `"b.TOKEN"`},
	{`/\w{24}(\.\w{6})?"`, `/RANDOM$1"`},
	{`/RANDOM\.\w{6}"`, `/RANDOM.NS"`},
	{`"accessor":"\w{24}\.\w{6}"`, `"accessor":"RANDOM.NS"`},
	{`"accessor":"(auth_)?([a-z]+)_\w{8}"`, `"accessor":"${2}_RANDOM"`},
	{`"accessor":"\w{24}"`, `"accessor":"RANDOM"`},
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z`, "TIME.NANOS"},
	{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`, "TIME"},
	{`"password":"[^"]+"`, `"password":"RANDOM"`},
	{`"v-([a-z-]+)-\w{20}-\d{10}"`, `"v-$1-RANDOM-UNIX"`},
	{`(-----BEGIN [A-Z ]+-----)[^-]+-----END [A-Z ]+-----`, "$1"},
	{`"serial_number":"\d+"`, `"serial_number":"DECIMAL"`},
	{`"[0-9a-f]{2}(:[0-9a-f]{2})+"`, `"HEX"`},
	{`:1\d{9}\b`, ":UNIX"},
	{`,"cluster_(name|id)":"[^"]+"`, ""},
}

var remaining = regexp.MustCompile(`"(ttl|lease_duration)":\d+9\b`)

// normal replaces what varies.
func normal(body string) string {
	for _, v := range varying {
		body = regexp.MustCompile(v.pattern).ReplaceAllString(body, v.replacement)
	}
	return remaining.ReplaceAllStringFunc(body, func(match string) string { // a second has passed
		name, number, _ := strings.Cut(match, ":")
		n, _ := strconv.Atoi(number) // digits
		return name + ":" + strconv.Itoa(n+1)
	})
}

// reviewTokens is the cluster that a real server asks.
func (c *conversation) reviewTokens(w http.ResponseWriter, r *http.Request) {
	var review struct {
		Spec struct {
			Token     string
			Audiences []string
		}
	}
	status := map[string]any{"authenticated": false}
	if json.NewDecoder(r.Body).Decode(&review) == nil && review.Spec.Token != c.vars["FORGED"] && strings.Count(review.Spec.Token, ".") == 2 {
		status = map[string]any{"authenticated": true, "audiences": review.Spec.Audiences, "user": map[string]any{"username": "system:serviceaccount:ns1:app", "uid": "uid-app", "groups": []string{"system:serviceaccounts"}}}
		if review.Spec.Token == c.vars["OTHER_ACCOUNT"] {
			status["user"].(map[string]any)["username"] = "system:serviceaccount:ns1:x"
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "status": status})
}
