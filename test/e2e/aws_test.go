package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/providers/aws/awstest"
)

var clouds = []scenario{
	{"pods read AWS with the role of their service account, whose region is the node's", true, awsPods},
	{"pods read Azure Key Vault as their service account", true, azurePods},
}

const (
	awsRegion = "eu-west-1"
	// sessionToken is the beginning of what AWS gives to who has logged in.
	sessionToken = "IQoJb3JpZ2luX2Vj"
)

// An awsWorld is the node with AWS in the test's own process.
type awsWorld struct {
	*suite
	*awstest.Server
	home      *awstest.Region
	ns, other string // namespaces: that of the service accounts with a role, and one without
	began     time.Time
}

// awsPods runs the steps in their order, up to one that fails.
func awsPods(t *testing.T, s *suite) {
	w := newAWSWorld(t, s)
	defer s.install(t)
	for _, step := range []struct {
		name string
		run  func(*awsWorld, *testing.T)
	}{
		{"pods of one service account get secrets and parameters, with one login", (*awsWorld).gives},
		{"a new version reaches a running pod", (*awsWorld).rotates},
		{"another role of the account counts at the next poll", (*awsWorld).changesRole},
		{"who has no role, a role that may not, or another's role waits, and says why", (*awsWorld).refuses},
		{"the driver reads the node and the service accounts of those pods, once each", (*awsWorld).readsOnce},
		{"neither logs nor the API server have a secret", (*awsWorld).keepsSecrets},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(w, t) }) {
			return
		}
	}
	s.measureMemory(t, "aws")
}

// newAWSWorld starts AWS where pods reach it, lets it trust the cluster, and
// installs the chart with the provider.
func newAWSWorld(t *testing.T, s *suite) *awsWorld {
	t.Helper()
	node, _ := s.addresses(t)
	w := &awsWorld{suite: s, Server: awstest.New(t, &awstest.Options{Listen: net.JoinHostPort(node, "0")}), began: time.Now()}
	w.ns, w.other = s.namespace(t), s.namespace(t)
	w.home = w.Region(awsRegion)
	w.learnt = append(w.learnt, sessionToken)
	s.trustCluster(t, w.Trust)
	for _, name := range []string{"shop", "audit", "poor"} {
		w.Role(role(name), awstest.Role{Subjects: []string{"system:serviceaccount:" + w.ns + ":web", "system:serviceaccount:" + w.ns + ":poor"}})
	}
	w.label(t, "topology.kubernetes.io/region="+awsRegion)
	t.Cleanup(func() { w.label(t, "topology.kubernetes.io/region-") })
	s.install(t, "providers.enabled={file,aws}", "rotation.interval=5s", "csiDriver.tokenRequests[2].audience=sts.amazonaws.com",
		"providers.env[0].name=AWS_ENDPOINT_URL", "providers.env[0].value="+w.URL,
		"providers.env[1].name=AWS_ENDPOINT_URL_STS", "providers.env[1].value="+w.URL)
	for account, name := range map[string]string{"web": "shop", "poor": "poor"} {
		w.account(t, w.ns, account, role(name))
	}
	w.apply(t, w.ns, awsClass)
	return w
}

// trustCluster makes a cloud accept the tokens of the cluster's service accounts.
func (s *suite) trustCluster(t *testing.T, trust func(issuer string, jwks []byte)) {
	t.Helper()
	var cluster struct{ Issuer string }
	about, err := s.kubectl(t.Context(), "", "get", "--raw", "/.well-known/openid-configuration")
	if err == nil {
		err = json.Unmarshal([]byte(about), &cluster)
	}
	if err != nil {
		t.Fatal(err)
	}
	keys, err := s.kubectl(t.Context(), "", "get", "--raw", "/openid/v1/jwks")
	if err != nil {
		t.Fatal(err)
	}
	trust(cluster.Issuer, []byte(keys))
}

func role(name string) string { return "arn:aws:iam::123456789012:role/" + name }

const awsClass = `apiVersion: secrets-store.csi.x-k8s.io/v1
kind: SecretProviderClass
metadata: {name: shop}
spec:
  provider: aws
  parameters:
    objects: |
      - {objectName: shop/db, objectType: secretsmanager, objectAlias: db.json, jmesPath: [{path: password, objectAlias: password}]}
      - {objectName: shop/license, objectType: secretsmanager}
      - {objectName: /shop/flags, objectType: ssmparameter}
      - {objectName: /shop/rate, objectType: ssmparameter}
`

// label changes a label of the node.
func (w *awsWorld) label(t *testing.T, label string) {
	t.Helper()
	if _, err := w.kubectl(context.WithoutCancel(t.Context()), "", "label", "node", "--all", "--overwrite", label); err != nil {
		t.Error(err)
	}
}

// account makes a service account that has the role; without one it has none.
func (w *awsWorld) account(t *testing.T, namespace, name, role string) {
	t.Helper()
	annotations := "{}"
	if role != "" {
		annotations = fmt.Sprintf("{eks.amazonaws.com/role-arn: %q}", role)
	}
	w.apply(t, namespace, fmt.Sprintf("apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: %s, annotations: %s}\n", name, annotations))
}

// as returns a pod of a service account.
func as(name, account string) podSpec {
	return podSpec{name: name, classes: []string{"shop"}, more: "  serviceAccountName: " + account + "\n"}
}

func (w *awsWorld) gives(t *testing.T) {
	password, license, flags, rate := w.canary(), w.canary(), w.canary(), w.canary()
	document := fmt.Sprintf(`{"password":%q}`, password)
	w.home.PutSecret("shop/db", []byte(document))
	w.home.PutSecret("shop/license", []byte(license))
	w.home.PutParameter("/shop/flags", flags)
	w.home.PutParameter("/shop/rate", rate)
	w.Forget()
	for _, pod := range []string{"one", "two", "three"} {
		w.apply(t, w.ns, w.pod(as(pod, "web")))
	}
	for _, pod := range []string{"one", "two", "three"} {
		w.awaitStart(t, w.ns, pod)
		for file, want := range map[string]string{"db.json": document, "password": password, "shop_license": license, "_shop_flags": flags, "_shop_rate": rate} {
			w.sees(t, w.ns, pod, "/secrets/shop/"+file, want)
		}
	}
	if logins := w.Count("sts:AssumeRoleWithWebIdentity"); logins != 1 {
		t.Errorf("%d logins of one service account, want 1", logins)
	}
	session := "arn:aws:sts::123456789012:assumed-role/shop/" + w.ns + "-web"
	for _, call := range w.Calls() {
		if call.Code != "" || call.Operation != "sts:AssumeRoleWithWebIdentity" && (call.Principal != session || call.Region != awsRegion) {
			t.Errorf("%+v, want a call by %s in %s", call, session, awsRegion)
		}
	}
}

func (w *awsWorld) rotates(t *testing.T) {
	license, rate := w.canary(), w.canary()
	w.home.PutSecret("shop/license", []byte(license))
	w.home.PutParameter("/shop/rate", rate)
	w.sees(t, w.ns, "one", "/secrets/shop/shop_license", license)
	w.sees(t, w.ns, "one", "/secrets/shop/_shop_rate", rate)
}

// changesRole gives the account of the running pods another role, because its
// first one may not read any more.
func (w *awsWorld) changesRole(t *testing.T) {
	flags := w.canary()
	w.Deny(role("shop"), "ssm:GetParameters", "")
	w.home.PutParameter("/shop/flags", flags)
	w.event(t, w.ns, "one", "MountRotationFailed", "with role "+role("shop")+": AccessDeniedException: .* perform: ssm:GetParameters")
	w.account(t, w.ns, "web", role("audit"))
	w.sees(t, w.ns, "one", "/secrets/shop/_shop_flags", flags)
	if logins := w.Count("sts:AssumeRoleWithWebIdentity"); logins != 2 {
		t.Errorf("%d logins of one service account with two roles, want 2", logins)
	}
}

func (w *awsWorld) refuses(t *testing.T) {
	w.account(t, w.ns, "none", "")
	w.account(t, w.other, "web", role("shop"))
	w.apply(t, w.other, awsClass)
	w.Deny(role("poor"), "secretsmanager:GetSecretValue", "shop/license")
	for _, c := range []struct{ namespace, pod, account, says string }{
		{w.ns, "without", "none", `An IAM role must be associated with service account none \(namespace: ` + w.ns + `\)`},
		{
			w.ns, "denied", "poor",
			awsRegion + `: \w+ of .*shop/license.* with role ` + role("poor") + `: AccessDeniedException: .* not authorized to perform: secretsmanager:GetSecretValue on resource`,
		},
		{w.other, "stranger", "web", "AssumeRoleWithWebIdentity of role " + role("shop") + ": AccessDenied: .* must trust system:serviceaccount:" + w.other + ":web "},
	} {
		w.apply(t, c.namespace, w.pod(as(c.pod, c.account)))
		w.event(t, c.namespace, c.pod, "FailedMount", c.says)
		if err := w.ready(t.Context(), c.namespace, c.pod); err == nil {
			t.Errorf("pod %s runs", c.pod)
		}
	}
	w.Allow(role("poor"), "secretsmanager:GetSecretValue", "shop/license")
	w.awaitStart(t, w.ns, "denied")
}

// readsOnce expects that a watch of one object follows what the driver has
// asked for, and that it knows of nobody else.
func (w *awsWorld) readsOnce(t *testing.T) {
	w.may(t, append(slices.Clone(always), "nodes: get list watch", "serviceaccounts: get list watch"))
	node, err := w.kubectl(t.Context(), "", "get", "nodes", "-o", "jsonpath={.items[0].metadata.name}")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"/nodes/" + node}
	for _, account := range []string{w.ns + "/serviceaccounts/none", w.ns + "/serviceaccounts/poor", w.ns + "/serviceaccounts/web", w.other + "/serviceaccounts/web"} {
		want = append(want, "/namespaces/"+account)
	}
	var got []string
	for _, request := range w.requests(t, w.began, "get", "list", "watch") {
		switch verb, path, _ := strings.Cut(request, " /api/v1"); {
		case !strings.Contains(path, "/serviceaccounts") && !strings.Contains(path, "/nodes"):
		case verb == "get":
			got = append(got, path)
		case !strings.Contains(path, "fieldSelector=metadata.name%3D"):
			t.Errorf("the driver reads all: %s", request)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what the driver has read (-want +got):\n%s", diff)
	}
}

func (w *awsWorld) keepsSecrets(t *testing.T) {
	w.searchPods(t)
	w.searchLogs(t)
}
