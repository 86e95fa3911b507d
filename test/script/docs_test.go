package script

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/aws"
	"github.com/keymount/keymount/providers/azure"
	"github.com/keymount/keymount/providers/file"
	"github.com/keymount/keymount/providers/vault"
)

// The blocks `console` of a document are a session: one shell line after each
// "$ ", and then what it prints, with "..." as match has it. It runs in a
// folder that has the examples of the repository; make runs at the top of the
// repository itself.
func TestConsoleBlocksShowWhatHappens(t *testing.T) {
	for _, doc := range read(t, documents...) {
		t.Run(doc.name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(filepath.Join(dir, "examples"), os.DirFS(filepath.Join(repository, "examples"))); err != nil {
				t.Fatal(err)
			}
			for _, b := range doc.blocks() {
				if b.language == "console" {
					session(t, dir, fmt.Sprintf("%s:%d", doc.name, b.line), b.text)
				}
			}
		})
	}
}

// session runs the lines of one block. A line that ends in a backslash, or
// opens a here-document, goes on in the next.
func session(t *testing.T, dir, place, text string) {
	t.Helper()
	steps := strings.Split("\n"+text, "\n$ ")
	if strings.TrimSpace(steps[0]) != "" {
		t.Fatalf("%s: a console block begins with \"$ \"", place)
	}
	for _, step := range steps[1:] {
		command, want := cutCommand(step)
		cmd := exec.Command("sh", "-c", command)
		cmd.Dir = dir
		if strings.HasPrefix(command, "make ") {
			cmd.Dir = repository
			cmd.Env = append(os.Environ(), "MAKELEVEL=", "MAKEFLAGS=", "MFLAGS=") // as if no make ran this test
		}
		out, err := cmd.CombinedOutput()
		got := string(out)
		if err != nil {
			got += fmt.Sprintf("(%v)\n", err) // (exit status 2)
		}
		if !match(want, got) {
			t.Fatalf("%s: $ %s\nprints\n%swant\n%s", place, command, got, want)
		}
	}
}

var hereDocument = regexp.MustCompile(`<<'?(\w+)'?`)

// cutCommand cuts a step of a session into the command and its output.
func cutCommand(step string) (command, output string) {
	lines := strings.SplitAfter(step, "\n")
	n := 1
	for n < len(lines) && strings.HasSuffix(lines[n-1], "\\\n") {
		n++
	}
	if here := hereDocument.FindStringSubmatch(strings.Join(lines[:n], "")); here != nil {
		for n < len(lines) && strings.TrimSpace(lines[n]) != here[1] {
			n++
		}
		n = min(n+1, len(lines))
	}
	return strings.Join(lines[:n], ""), strings.Join(lines[n:], "")
}

// ours finds our commands and make targets in a line of a shell.
var (
	ours       = regexp.MustCompile(`(?:^|[ /])(keymount(?:-driver|-provider)?(?: try| audit(?: show| verify)?)?)((?: .*)?)$`)
	makeTarget = regexp.MustCompile(`^(?:\$ )?make ([a-z0-9]+)`)
	aFlag      = regexp.MustCompile(` (--?[a-z][a-z-]*)`)
)

// Whatever a document shows of our commands and of make exists; what is not a
// console block is not run, but its flags and targets are looked up.
func TestCommandsInDocumentsExist(t *testing.T) {
	targets := output(t, "make", "--no-print-directory", "-C", repository, "help")
	seen := map[string]int{}
	for _, doc := range read(t, documents...) {
		for _, b := range doc.blocks() {
			if b.language == "yaml" || b.language == "text" {
				continue
			}
			for line := range strings.Lines(strings.ReplaceAll(b.text, "\\\n", " ")) {
				line, _, _ = strings.Cut(strings.TrimRight(line, "\n"), " # ")
				if target := makeTarget.FindStringSubmatch(line); target != nil {
					seen["make"]++
					if !strings.Contains(targets, "\n  make "+target[1]+" ") {
						t.Errorf("%s:%d: make %s is no target of `make help`", doc.name, b.line, target[1])
					}
				}
				if strings.HasPrefix(strings.TrimSpace(line), "helm ") { // a release may have our name
					continue
				}
				if call := ours.FindStringSubmatch(line); call != nil {
					seen[call[1]]++
					help := output(t, strings.Fields(call[1])[0], append(strings.Fields(call[1])[1:], "--help")...)
					for _, name := range aFlag.FindAllStringSubmatch(call[2], -1) {
						if !strings.Contains(help, name[1]+" ") && name[1] != "--help" && name[1] != "--version" {
							t.Errorf("%s:%d: %s has no flag %s", doc.name, b.line, call[1], name[1])
						}
					}
				}
			}
		}
	}
	for _, command := range []string{"make", "keymount-driver", "keymount-provider", "keymount try"} {
		if seen[command] == 0 {
			t.Errorf("no document shows %s", command)
		}
	}
}

func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatalf("%s %q: %v", name, args, err)
	}
	return string(out)
}

func TestYAMLBlocksAreValid(t *testing.T) {
	var classes, policies int
	for _, doc := range read(t, documents...) {
		for _, b := range doc.blocks() {
			if b.language != "yaml" {
				continue
			}
			place := fmt.Sprintf("%s:%d", doc.name, b.line)
			var object map[string]any
			if err := yaml.Unmarshal([]byte(b.text), &object); err != nil {
				t.Errorf("%s: %v", place, err)
			}
			switch {
			case strings.Contains(b.text, "kind: SecretProviderClass"):
				classes++
				mustBeClass(t, place, b.text)
			case object["rules"] != nil:
				policies++
				mustBePolicy(t, place, b.text)
			}
		}
	}
	if classes == 0 || policies == 0 {
		t.Errorf("the documents show %d classes and %d policies", classes, policies)
	}
}

// mustBeClass checks that text defines classes, and that the providers
// understand them.
func mustBeClass(t *testing.T, place, text string) {
	t.Helper()
	classes, err := class.Parse([]byte(text))
	if err != nil || len(classes) == 0 {
		t.Errorf("%s: %d classes, error %v", place, len(classes), err)
	}
	for _, c := range classes {
		if _, err := c.Rotation(0); err != nil {
			t.Errorf("%s: %v", place, err)
		}
		switch c.Provider {
		case "file":
			if err := fetch(t, t.TempDir(), c); provider.Reason(err) != "NotFound" { // of an empty store
				t.Errorf("%s: the file provider says %v", place, err)
			}
		case "vault", "openbao":
			server, err := vault.New(vault.Product(c.Provider), nil)
			if err != nil {
				t.Fatal(err)
			}
			placeAuthorities(t, c)
			mustBeAsked(t, place, server, c)
		case "aws":
			cloud, err := aws.New(nil)
			if err != nil {
				t.Fatal(err)
			}
			mustBeAsked(t, place, cloud, c)
		case "azure":
			vaults, err := azure.New(nil)
			if err != nil {
				t.Fatal(err)
			}
			mustBeAsked(t, place, vaults, c)
		}
	}
}

// placeAuthorities makes a file that a class of Vault says there is, and has the
// class name it.
func placeAuthorities(t *testing.T, c *class.Class) {
	t.Helper()
	for _, parameter := range []string{"vaultCACertPath", "openbaoCACertPath"} {
		if c.Parameters[parameter] == "" {
			continue
		}
		server := httptest.NewTLSServer(http.NotFoundHandler())
		defer server.Close()
		path := filepath.Join(t.TempDir(), "ca.crt")
		if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o644); err != nil {
			t.Fatal(err)
		}
		c.Parameters[parameter] = path
	}
}

// mustBeAsked checks that a class is one that a provider would ask its store
// for: in a call that has ended, nobody waits for the store.
func mustBeAsked(t *testing.T, place string, p provider.Provider, c *class.Class) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	credential := secret.New([]byte("example-word"))
	tokens := make(provider.Tokens)
	for _, audience := range []string{c.Parameters["audience"], c.Provider, "sts.amazonaws.com", "pods.eks.amazonaws.com", "api://AzureADTokenExchange"} {
		tokens[audience] = provider.Token{Value: credential}
	}
	_, err := p.Fetch(ctx, &provider.Request{
		Class: c.Name.String(), Parameters: c.ProviderParameters(), Mode: 0o644,
		Pod:         provider.Pod{Namespace: "shop", Name: "web", UID: "1", ServiceAccount: "web"},
		Tokens:      tokens,
		Credentials: map[string]secret.Value{"role_id": credential, "secret_id": credential, "token": credential, "clientid": credential, "clientsecret": credential},
		Facts: provider.Facts{
			provider.ServiceAccountAnnotation("eks.amazonaws.com/role-arn"): "arn:aws:iam::123456789012:role/shop",
			provider.ServiceAccountAnnotation("eks.amazonaws.com/audience"): "",
			provider.NodeLabel("topology.kubernetes.io/region"):             "eu-west-1",
		},
	})
	if closer, ok := p.(io.Closer); ok {
		err = errors.Join(err, closer.Close())
	}
	if provider.Reason(err) != "Unavailable" {
		t.Errorf("%s: the provider %s says %v", place, c.Provider, err)
	}
}

// mustBePolicy checks that the file provider follows text as its policy: it
// allows something, and not everything.
func mustBePolicy(t *testing.T, place, text string) {
	t.Helper()
	store := t.TempDir()
	if err := os.WriteFile(filepath.Join(store, "policy.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	err := fetch(t, store, &class.Class{Parameters: map[string]string{"objects": "[{objectName: not-in-any-rule}]"}})
	if err == nil || !strings.Contains(err.Error(), "a rule in "+store+"/policy.yaml could allow it") {
		t.Errorf("%s: the file provider says %v", place, err)
	}
}

// fetch asks the file provider for the volume of a class.
func fetch(t *testing.T, store string, c *class.Class) error {
	t.Helper()
	p, err := file.New(&file.Options{Root: store})
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.Fetch(t.Context(), &provider.Request{
		Class: c.Name.String(), Parameters: c.ProviderParameters(), Mode: 0o644,
		Pod: provider.Pod{Namespace: "shop", Name: "web", UID: "1", ServiceAccount: "web"},
	})
	return err
}

// Links between documents lead somewhere.
func TestLinksBetweenDocuments(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^):#]+)(?:#[^)]*)?\)`)
	for _, doc := range read(t, "*.md", "docs/*.md", "docs/providers/*.md", "examples/*/README.md") {
		for _, target := range link.FindAllStringSubmatch(doc.text, -1) {
			if _, err := os.Stat(filepath.Join(repository, filepath.Dir(doc.name), target[1])); err != nil {
				t.Errorf("%s links to %s: %v", doc.name, target[1], err)
			}
		}
	}
}
