package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// exampleImage is the one that the examples of ours, and the tests of the
// upstream driver, have.
const exampleImage = "registry.k8s.io/e2e-test-images/busybox:1.29-4"

// haveExampleImage gives the node's busybox that name.
func (s *suite) haveExampleImage(t *testing.T) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), s.Tool("ctr"), "--namespace=k8s.io", "images", "tag", "--force", s.Images()["busybox"], exampleImage).CombinedOutput()
	if err != nil {
		t.Fatalf("%s%v", out, err)
	}
}

// exampleRuns runs the commands of examples/kubernetes/README.md.
func exampleRuns(t *testing.T, s *suite) {
	s.haveExampleImage(t)
	s.clear(t)
	readme, err := os.ReadFile("../../examples/kubernetes/README.md")
	if err != nil {
		t.Fatal(err)
	}
	s.bash(t, commands(t, string(readme), "Run it"))
	s.awaitReady(t, "shop", "app")
	for _, deployment := range []string{"deployment/worker", "deployment/legacy"} {
		s.await(t, "shop", deployment)
	}
	if mode, err := s.modeOf(t, "shop", "app", "/run/secrets/shop/license.txt"); err != nil || mode != "644 0 0" {
		t.Errorf("app: mode, user and group = %q, %v", mode, err)
	}
	if mode, err := s.modeOf(t, "shop", "deployment/worker", "/run/secrets/shop/license.txt"); err != nil || mode != "640 0 2000" {
		t.Errorf("worker: mode, user and group = %q, %v", mode, err)
	}
	out := s.bash(t, commands(t, string(readme), "Look at it"))
	if !regexp.MustCompile(`(?m)^shop-env .*app=legacy.*secrets-store\.csi\.k8s\.io/managed=true`).MatchString(out) {
		t.Errorf("the Secret does not have its labels:\n%s", out)
	}
	s.secretIsGone(t, "shop", "shop-env")
	s.bash(t, commands(t, string(readme), "Change a secret"))
	s.sees(t, "shop", "app", "/run/secrets/shop/API_TOKEN", "another-example-word")
	s.searchNamespace(t, "shop")
	s.bash(t, "kubectl delete namespace shop\nhelm uninstall keymount --namespace kube-system")
	s.driverIsGone(t)
	s.takeOver(t)
}

// commands returns the commands of a section of a document: indented lines.
func commands(t *testing.T, document, section string) string {
	t.Helper()
	_, text, found := strings.Cut(document, "\n## "+section+"\n")
	if !found {
		t.Fatalf("there is no section %q", section)
	}
	text, _, _ = strings.Cut(text, "\n## ")
	var script strings.Builder
	for line := range strings.Lines(text) {
		if command, ok := strings.CutPrefix(line, "    "); ok {
			script.WriteString(command)
		}
	}
	if script.Len() == 0 {
		t.Fatalf("section %q has no commands", section)
	}
	return script.String()
}

// bash runs commands at the top of the repository, with the chart's image as
// the node has it, and returns what they print.
func (s *suite) bash(t *testing.T, script string) string {
	t.Helper()
	install := fmt.Sprintf(`helm() {
	if [ "$1" = install ]; then set -- "$@" --wait %s; fi
	command helm "$@"
}
`, strings.Join(image(), " "))
	cmd := exec.CommandContext(t.Context(), "bash", "-euxo", "pipefail", "-c", install+script)
	cmd.Dir = "../.."
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, s.describe("shop"))
	}
	return string(out)
}
