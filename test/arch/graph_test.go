package arch

import (
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// foreign lists what the privileged binary must not link: clients of stores,
// and the libraries that come with them. (golang.org/x/oauth2 comes with
// client-go, which reads service account tokens with it.)
var foreign = []string{
	"cloud.google.com/go",
	"filippo.io/age",
	"filippo.io/hpke",
	"github.com/aws/",
	"github.com/Azure/",
	"github.com/AzureAD/",
	"github.com/golang-jwt/",
	"github.com/hashicorp/",
	"github.com/jmespath/",
	"github.com/joho/godotenv",
	"github.com/openbao/",
	"google.golang.org/api",
	"golang.org/x/crypto/ssh",
	module + "/providers",
}

// testOnly lists what no binary links.
var testOnly = []string{
	"testing",
	"github.com/golang/mock",
	"github.com/google/go-cmp",
	"github.com/rogpeppe/go-internal",
	"go.uber.org/goleak",
	module + "/pkg/provider/providertest",
	module + "/test",
}

// mains are the binaries of the product, and what each must not link.
var mains = map[string][]string{
	"cmd/keymount-driver":   append(foreign, testOnly...),
	"cmd/keymount-provider": append([]string{"k8s.io/client-go", "github.com/container-storage-interface/spec"}, testOnly...),
	"cmd/keymount":          testOnly,
}

func TestBinariesLinkNoMoreThanTheyNeed(t *testing.T) {
	for main, denied := range mains {
		t.Run(main, func(t *testing.T) { report(t, linkViolations(main, denied, dependencies(t, main))) })
	}
}

func linkViolations(main string, denied, linked []string) (violations []string) {
	for _, dep := range linked {
		for _, d := range denied {
			if dep == d || strings.HasPrefix(dep, strings.TrimSuffix(d, "/")+"/") {
				violations = append(violations, fmt.Sprintf("%s links %s; to see why: go list -deps -f '{{.ImportPath}}: {{.Imports}}' ./%s | grep %s", main, dep, main, d))
			}
		}
	}
	return violations
}

// dependencies returns the import paths that the main links.
func dependencies(t *testing.T, main string) []string {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "./"+main)
	cmd.Dir = "../.."
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list -deps ./%s: %v\n%s", main, err, stderr.String())
	}
	return strings.Fields(string(out))
}
