// Package aws_test runs the examples as they are written, against a store that
// is set up as README.md says.
package aws_test

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/providers/aws"
	"github.com/keymount/keymount/providers/aws/awstest"
)

// examples are the classes, in the order of expected.txt. That of EKS Pod
// Identity is read but not run: its agent has an address of its own on a node.
var examples = []string{"secrets", "parameters", "failover"}

func text(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// manifest is what the tests need of a class or a pod.
type manifest struct {
	Metadata struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Spec struct {
		Provider           string            `json:"provider"`
		Parameters         map[string]string `json:"parameters"`
		ServiceAccountName string            `json:"serviceAccountName"`
		Volumes            []struct {
			CSI struct {
				VolumeAttributes map[string]string `json:"volumeAttributes"`
			} `json:"csi"`
		} `json:"volumes"`
	} `json:"spec"`
}

// read returns the class and the pod of an example.
func read(t *testing.T, example string) (class, pod manifest) {
	t.Helper()
	documents := strings.Split(text(t, example+".yaml"), "\n---\n")
	if len(documents) != 2 {
		t.Fatalf("%s.yaml has %d documents, want a class and a pod", example, len(documents))
	}
	for i, into := range []*manifest{&class, &pod} {
		if err := yaml.Unmarshal([]byte(documents[i]), into); err != nil {
			t.Fatal(err)
		}
	}
	return class, pod
}

// commands returns the options of each command of README.md that begins so.
func commands(t *testing.T, prefix string) (all []map[string]string) {
	t.Helper()
	for line := range strings.Lines(text(t, "README.md")) {
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), prefix+" ")
		if !ok {
			continue
		}
		options := make(map[string]string)
		for _, option := range regexp.MustCompile(`--([a-z-]+) ('[^']*'|[^ -]\S*)`).FindAllStringSubmatch(rest, -1) {
			options[option[1]] = strings.Trim(option[2], "'")
		}
		all = append(all, options)
	}
	if len(all) == 0 {
		t.Fatalf("README.md has no command %q", prefix)
	}
	return all
}

// prepare does what README.md says, and returns what the annotation names.
func prepare(t *testing.T) (server *awstest.Server, role string) {
	t.Helper()
	server = awstest.New(t, nil)
	for _, c := range commands(t, "aws secretsmanager create-secret") {
		server.Region(c["region"]).PutSecret(c["name"], []byte(c["secret-string"]))
	}
	for i, c := range commands(t, "aws ssm put-parameter") {
		server.Region(c["region"]).PutParameter(c["name"], c["value"])
		if i == 1 { // the label comes before the second version
			label := commands(t, "aws ssm label-parameter-version")[0]
			server.Region(label["region"]).LabelParameter(label["name"], 1, label["labels"])
		}
	}
	var trust struct {
		Statement []struct {
			Condition struct{ StringEquals map[string]string }
		}
	}
	if err := json.Unmarshal([]byte(text(t, "trust.json")), &trust); err != nil {
		t.Fatal(err)
	}
	allowed := awstest.Role{}
	for key, value := range trust.Statement[0].Condition.StringEquals {
		if strings.HasSuffix(key, ":sub") {
			allowed.Subjects = []string{value}
		} else {
			allowed.Audience = value
		}
	}
	_, role, _ = strings.Cut(text(t, "README.md"), "annotate serviceaccount web eks.amazonaws.com/role-arn=")
	role, _, _ = strings.Cut(role, "\n")
	server.Role(role, allowed)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": server.URL, "AWS_ENDPOINT_URL_STS": server.URL, "AWS_CA_BUNDLE": "",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_REGION": "", "AWS_PROFILE": "",
	} {
		t.Setenv(name, value)
	}
	return server, role
}

// fetch returns the files of an example for the service account, whose
// annotation is the role.
func fetch(t *testing.T, server *awstest.Server, example, account, role string) (map[string]provider.File, error) {
	t.Helper()
	class, pod := read(t, example)
	p, err := aws.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = p.Close() }()
	const audience = "sts.amazonaws.com"
	token := server.ServiceAccountToken(pod.Metadata.Namespace, account, audience, time.Hour)
	bundle, err := p.Fetch(t.Context(), &provider.Request{
		Parameters: class.Spec.Parameters, Mode: 0o644,
		Pod:    provider.Pod{Namespace: pod.Metadata.Namespace, Name: pod.Metadata.Name, UID: "uid", ServiceAccount: account},
		Tokens: provider.Tokens{audience: {Value: secret.New([]byte(token))}},
		Facts: provider.Facts{
			provider.ServiceAccountAnnotation("eks.amazonaws.com/role-arn"): role,
			provider.ServiceAccountAnnotation("eks.amazonaws.com/audience"): "",
		},
	})
	if err != nil {
		return nil, err
	}
	files := make(map[string]provider.File)
	for _, f := range bundle.Files {
		files[f.Path] = f
	}
	return files, nil
}

func TestTheExamplesGiveTheExpectedFiles(t *testing.T) {
	server, role := prepare(t)
	var lines strings.Builder
	content := make(map[string]string)
	for _, example := range examples {
		_, pod := read(t, example)
		files, err := fetch(t, server, example, pod.Spec.ServiceAccountName, role)
		if err != nil {
			t.Fatal(err)
		}
		var listed []string
		for path, f := range files {
			listed = append(listed, fmt.Sprintf("%s %s %04o\n", example, path, f.Mode))
			content[path] = string(f.Data.Reveal())
		}
		lines.WriteString(strings.Join(slices.Sorted(slices.Values(listed)), ""))
	}
	if diff := cmp.Diff(text(t, "expected.txt"), lines.String()); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
	want := map[string]string{
		"db.json": `{"user":"shop","pass-word":"example-word"}`, "db-user": "shop", "db-password": "example-word", "session.key": "example-session-key",
		"shop/flags": "example-flags", "rate/now": "example-rate-2", "rate/approved": "example-rate-1",
		"license.txt": "example-license", "token": "example-token",
	}
	if diff := cmp.Diff(want, content); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

// What README.md writes at its end is in the files.
func TestNewVersionsReachTheirFiles(t *testing.T) {
	server, role := prepare(t)
	put := commands(t, "aws secretsmanager put-secret-value")[0]
	server.Region(put["region"]).PutSecret(put["secret-id"], []byte(put["secret-string"]))
	label := commands(t, "aws ssm label-parameter-version")[1]
	server.Region(label["region"]).LabelParameter(label["name"], 2, label["labels"])
	for _, want := range []struct{ example, file, content string }{
		{"secrets", "db-password", "another-example-word"},
		{"parameters", "rate/approved", "example-rate-2"},
	} {
		files, err := fetch(t, server, want.example, "web", role)
		if err != nil {
			t.Fatal(err)
		}
		if f, ok := files[want.file]; !ok || string(f.Data.Reveal()) != want.content {
			t.Errorf("%s is not what was written last", want.file)
		}
	}
}

// A role with policy.json may do all that the examples take.
func TestThePolicyAllowsWhatTheExamplesDo(t *testing.T) {
	server, role := prepare(t)
	for _, example := range examples {
		if _, err := fetch(t, server, example, "web", role); err != nil {
			t.Fatal(err)
		}
	}
	policy := text(t, "policy.json")
	for _, call := range server.Calls() {
		if call.Principal != "" && !strings.Contains(policy, `"`+call.Operation+`"`) {
			t.Errorf("policy.json does not allow %s", call.Operation)
		}
	}
}

func TestARegionMayBeOutOfOrder(t *testing.T) {
	server, role := prepare(t)
	server.Region("eu-west-1").Break()
	if files, err := fetch(t, server, "failover", "web", role); err != nil || len(files) != 2 {
		t.Errorf("%d files, %v", len(files), err)
	}
}

func TestAnAccountWithoutARoleIsTold(t *testing.T) {
	server, _ := prepare(t)
	_, said, _ := strings.Cut(text(t, "README.md"), "event that says\n\n    ")
	said, _, _ = strings.Cut(said, "\n")
	if _, err := fetch(t, server, "secrets", "default", ""); err == nil || !strings.Contains(err.Error(), said) {
		t.Errorf("error %v, README.md shows %s", err, said)
	}
}

// The class of Pod Identity is whole: all that it lacks is the agent's token.
func TestPodIdentityWantsItsToken(t *testing.T) {
	server, _ := prepare(t)
	if _, err := fetch(t, server, "pod-identity", "web", ""); err == nil || !strings.Contains(err.Error(), `audience "pods.eks.amazonaws.com"`) {
		t.Errorf("error %v", err)
	}
}

func TestTheManifestsBelongTogether(t *testing.T) {
	for _, example := range append([]string{"pod-identity"}, examples...) {
		class, pod := read(t, example)
		got := []string{class.Spec.Provider, class.Metadata.Name, pod.Spec.Volumes[0].CSI.VolumeAttributes["secretProviderClass"], pod.Metadata.Namespace}
		if diff := cmp.Diff([]string{"aws", example, example, class.Metadata.Namespace}, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", example, diff)
		}
	}
}
