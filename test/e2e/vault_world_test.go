package e2e

import (
	"encoding/base64"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/keymount/keymount/test/stores/openbao"
	"github.com/keymount/keymount/test/stores/postgres"
)

// A vaultWorld is the node with the servers that the example is about.
type vaultWorld struct {
	*suite
	bao      *openbao.Server
	database *postgres.Server
	readme   string // of the example, for this world
	prelude  string // of the shell that runs its commands

	word, license, session string // what its commands store
}

// newVaultWorld starts the servers. Their names in README.md are known to the
// node; in pods there is no DNS.
func newVaultWorld(t *testing.T, s *suite) *vaultWorld {
	t.Helper()
	node, api := s.addresses(t)
	w := &vaultWorld{suite: s, word: s.canary(), license: s.canary(), session: s.canary()}
	w.hosts(t, "127.0.0.1 postgres.shop.svc", api+" kubernetes.default.svc")
	w.bao = openbao.New(t, &openbao.Options{Address: net.JoinHostPort(node, "8200")})
	t.Cleanup(func() {
		if t.Failed() {
			_ = os.WriteFile(s.Log("openbao"), []byte(w.bao.Logged(t)), 0o600)
		}
	})
	text, err := os.ReadFile("../../examples/vault/README.md")
	if err != nil {
		t.Fatal(err)
	}
	w.readme = strings.NewReplacer(
		"vault.vault.svc", node, "openbao.openbao.svc", node, "kube-system", system,
		"example-word", w.word, "example-license", w.license, "ZXhhbXBsZS1zZXNzaW9uLWtleQ==", base64.StdEncoding.EncodeToString([]byte(w.session)),
		"default_ttl=1h", "default_ttl="+leaseTime.String(),
	).Replace(string(text))
	w.database = postgres.At(t, 5432)
	for _, statement := range []string{
		"CREATE ROLE admin LOGIN CREATEROLE PASSWORD '" + w.word + "'", "CREATE DATABASE shop OWNER admin", "CREATE ROLE reader ADMIN admin",
	} {
		w.database.Exec(t, statement)
	}
	w.prepareShell(t)
	return w
}

// addresses returns those of the node and of the API server.
func (s *suite) addresses(t *testing.T) (node, api string) {
	t.Helper()
	out, err := s.kubectl(t.Context(), "", "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	if err != nil {
		t.Fatal(err)
	}
	service, err := s.api.CoreV1().Services("default").Get(t.Context(), "kubernetes", metaGet)
	if err != nil {
		t.Fatal(err)
	}
	return out, service.Spec.ClusterIP
}

// hosts makes names known to the programs of the node, whose /etc is its own.
func (*vaultWorld) hosts(t *testing.T, lines ...string) {
	t.Helper()
	before, err := os.ReadFile("/etc/hosts")
	if err == nil {
		err = os.WriteFile("/etc/hosts", []byte(string(before)+"\n"+strings.Join(lines, "\n")+"\n"), 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// prepareShell makes what the documents leave to the reader: an account that
// reviews tokens, authorities, and the values of the chart's README.md.
func (w *vaultWorld) prepareShell(t *testing.T) {
	t.Helper()
	program, err := openbao.Binary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.apply(t, system, reviewer)
	if _, err := w.kubectl(t.Context(), "", "create", "configmap", "vault-ca", "-n", system, "--from-file="+w.bao.CAFile()); err != nil {
		t.Fatal(err)
	}
	w.prelude = "export " + strings.Join(w.bao.Environ(), " ") + "\n" + strings.NewReplacer("PROGRAM", program, "NAMESPACE", system, "IMAGE", strings.Join(image(), " ")).Replace(vaultShell)
}

// reviewer may ask the API server about tokens, and who has not logged in for
// its keys.
const reviewer = `apiVersion: v1
kind: ServiceAccount
metadata: {name: reviewer}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: e2e-reviewer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:auth-delegator"}
subjects: [{kind: ServiceAccount, name: reviewer, namespace: ` + system + `}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {name: e2e-issuer}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: "system:service-account-issuer-discovery"}
subjects: [{apiGroup: rbac.authorization.k8s.io, kind: Group, name: "system:unauthenticated"}]
`

// vaultShell adds to the commands of README.md what it says that a server
// outside of the cluster needs, and what saves the tests' time. A list of
// nothing is not a failure here.
const vaultShell = `
authority() { command kubectl --namespace kube-public get configmap kube-root-ca.crt --output 'jsonpath={.data.ca\.crt}'; }
bao() {
	case "$1 $2" in
	"write auth/kubernetes/config")
		set -- "$@" kubernetes_ca_cert="$(authority)" token_reviewer_jwt="$(command kubectl --namespace NAMESPACE create token reviewer)" ;;
	"write auth/jwt/config") set -- "$@" oidc_discovery_ca_pem="$(authority)" ;;
	"list "*) PROGRAM "$@" || true; return ;;
	esac
	PROGRAM "$@"
}
vault() { bao "$@"; }
kubectl() {
	case " $* " in *" delete pod "*) set -- "$@" --grace-period=1 ;; esac
	command kubectl "$@"
}
helm() {
	command helm "$@" IMAGE --values test/deploy/testdata/values-stores.yaml \
		--set 'providers.extraArgs[2]=--vault-tls-ca-cert=/etc/keymount/vault/ca.crt,providers.extraArgs[3]=--openbao-tls-ca-cert=/etc/keymount/vault/ca.crt' \
		--set logVerbosity=5,rotation.interval=5s --wait --timeout 3m
}
`

// run runs the commands of a section of README.md.
func (w *vaultWorld) run(t *testing.T, section string) {
	t.Helper()
	text, _, _ := strings.Cut(w.readme, "\nChange `serviceAccountName`") // what follows is an event
	w.bash(t, w.prelude+commands(t, text, section))
}

// clear ends what the example has begun.
func (w *vaultWorld) clear(t *testing.T) {
	t.Helper()
	if t.Failed() {
		t.Log(w.describe("shop"))
	}
	w.searchNamespace(t, "shop")
	w.bash(t, w.prelude+"kubectl --namespace shop delete pod --all\nkubectl delete namespace shop")
	if _, err := w.kubectl(t.Context(), "", "delete", "configmap", "vault-ca", "-n", system); err != nil {
		t.Error(err)
	}
}
