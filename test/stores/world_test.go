package stores

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/vault"
	"github.com/keymount/keymount/test/stores/issuer"
	"github.com/keymount/keymount/test/stores/openbao"
	"github.com/keymount/keymount/test/stores/postgres"
)

// TestMain searches what all tests made the product say for the secrets that
// they used.
func TestMain(m *testing.M) {
	klog.LogToStderr(false)
	var level klog.Level
	_ = level.Set("10")
	klog.SetOutput(&said)
	code := m.Run()
	klog.Flush()
	fmt.Println(strings.Join(measures, "\n"))
	if found := said.secrets(); found > 0 {
		fmt.Fprintf(os.Stderr, "the log at -v=10 shows secrets %d times\n", found)
		code = 1
	}
	os.Exit(code)
}

// said is the log of all tests, and what it must not have.
var said transcript

type transcript struct {
	mu       sync.Mutex
	text     strings.Builder
	canaries []string
}

// Write implements io.Writer.
func (s *transcript) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(text)
}

func (s *transcript) secrets() (found int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, canary := range s.canaries {
		found += strings.Count(s.text.String(), canary)
	}
	return found
}

// forbid notes secrets that nobody may say.
func (s *transcript) forbid(secrets ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.canaries = append(s.canaries, secrets...)
}

// newSecret returns a text that occurs nowhere else.
func newSecret() string {
	canary := "canary-" + rand.Text()
	said.forbid(canary)
	return canary
}

// patience is how long anything may take that happens by itself.
const patience = 30 * time.Second

// eventually calls ok until it returns nil.
func eventually(t testing.TB, what string, ok func() error) {
	t.Helper()
	deadline := time.After(patience)
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ok()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			t.Fatalf("not after %v: %s: %v", patience, what, err)
		}
	}
}

// after waits until a moment that somebody else has set.
func after(t testing.TB, moment time.Time) {
	t.Helper()
	timer := time.NewTimer(time.Until(moment))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
		t.Fatal("the test ended")
	}
}

// web is the pod that asks, unless a test has others.
var web = provider.Pod{Namespace: "shop", Name: "web-0", UID: "uid-of-web-0", ServiceAccount: "web"}

// A world is a server, the cluster whose tokens it trusts, and, where a test
// needs one, a database.
type world struct {
	*openbao.Server
	issuer   *issuer.Issuer
	database *postgres.Server
}

// newWorld starts a server that lets web log in as the role app, by the method
// kubernetes, with the policy app, which is still empty.
func newWorld(t testing.TB, opts *openbao.Options) *world {
	t.Helper()
	w := &world{Server: openbao.New(t, opts), issuer: issuer.New(t)}
	w.EnableKubernetes(t, "kubernetes", w.issuer)
	w.role(t, "app", nil)
	t.Cleanup(func() {
		logged := w.Logged(t)
		for _, canary := range said.canaries {
			if strings.Contains(logged, canary) {
				t.Error("the server's log, or its audit log, shows a secret")
			}
		}
	})
	return w
}

// role writes a role of the method kubernetes for web, with a policy of the
// same name; more fields come on top.
func (w *world) role(t testing.TB, name string, more openbao.Fields) {
	t.Helper()
	fields := openbao.Fields{
		"bound_service_account_names": web.ServiceAccount, "bound_service_account_namespaces": web.Namespace,
		"audience": "openbao", "token_policies": name, "token_ttl": "1h",
	}
	maps.Copy(fields, more)
	w.Write(t, "auth/kubernetes/role/"+name, fields)
}

// withDatabase starts a database, whose engine is mounted at db.
func (w *world) withDatabase(t testing.TB) *world {
	t.Helper()
	w.database = postgres.New(t)
	said.forbid(w.database.Password())
	w.MountDatabase(t, "db", w.database)
	return w
}

// provider returns a provider for the server that ends with the test.
func (w *world) provider(t testing.TB, product vault.Product, change func(*vault.Options)) *vault.Provider {
	t.Helper()
	opts := &vault.Options{Address: w.Address(), CACert: w.CAFile()}
	if change != nil {
		change(opts)
	}
	p, err := vault.New(product, opts)
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

// ask returns a request of web for objects, with the role app and a token of
// its own; parameters come on top.
func (w *world) ask(t testing.TB, objects string, parameters map[string]string) *provider.Request {
	t.Helper()
	return w.askAs(t, web, objects, parameters)
}

// askAs is ask for any pod.
func (w *world) askAs(t testing.TB, pod provider.Pod, objects string, parameters map[string]string) *provider.Request {
	t.Helper()
	all := map[string]string{"roleName": "app", "objects": objects}
	maps.Copy(all, parameters)
	token := w.issuer.Token(t, pod, "openbao", time.Hour)
	said.forbid(string(token.Value.Reveal()))
	return &provider.Request{
		Class: pod.Namespace + "/app", Parameters: all, Pod: pod, Mode: 0o644, Dir: t.TempDir(),
		Tokens: provider.Tokens{"openbao": token},
	}
}

// fetch fetches what must be there.
func fetch(t testing.TB, p provider.Provider, req *provider.Request) *provider.Bundle {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	bundle, err := p.Fetch(ctx, req)
	if err != nil {
		t.Fatalf("Fetch: %v", err)
	}
	if err := bundle.Validate(); err != nil {
		t.Fatalf("Fetch returned %v", err)
	}
	return bundle
}

// fails fetches what must fail for a reason, and with a text.
func fails(t testing.TB, p provider.Provider, req *provider.Request, want error, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := p.Fetch(ctx, req)
	if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), text) {
		t.Errorf("Fetch: %v, want an error that wraps %q and has %q", err, want, text)
	}
	for _, canary := range said.canaries {
		if strings.Contains(fmt.Sprint(err), canary) {
			t.Error("the error shows a secret")
		}
	}
}

// file returns the text of a file of the bundle.
func file(t testing.TB, b *provider.Bundle, path string) string {
	t.Helper()
	for _, f := range b.Files {
		if f.Path == path {
			return string(f.Data.Reveal())
		}
	}
	t.Fatalf("no file %q in the bundle", path)
	return ""
}

// holding returns the request of a volume that has the bundle, with a new token.
func (w *world) holding(t testing.TB, b *provider.Bundle, req *provider.Request) *provider.Request {
	t.Helper()
	again := *req
	again.Held = provider.Held{Versions: b.Versions, Lease: b.Lease}
	if len(req.Tokens) > 0 {
		again.Tokens = w.askAs(t, req.Pod, "", nil).Tokens
	}
	return &again
}

// credentials returns the data of a Secret.
func credentials(pairs map[string]string) map[string]secret.Value {
	values := make(map[string]secret.Value, len(pairs))
	for key, text := range pairs {
		values[key] = secret.New([]byte(text))
	}
	return values
}
