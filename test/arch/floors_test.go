package arch

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// cmdFloor is the floor of the mains, which may import all of pkg.
const cmdFloor = 5

// floors is the table of DESIGN.md: a package imports only lower floors.
var floors = map[string]int{
	"pkg/secret":                      0,
	"pkg/keystore":                    0,
	"pkg/atomicdir":                   0,
	"pkg/tmpfs/userns":                0,
	"pkg/sandbox":                     0,
	"pkg/trace":                       0,
	"pkg/trace/tracetest":             1,
	"pkg/plugin/v1alpha1":             0,
	"pkg/plugin/keymountv1":           0,
	"pkg/provider/providertest/pipe":  0,
	"pkg/provider/providertest/trust": 0,
	"pkg/provider":                    1,
	"pkg/provider/params":             1,
	"pkg/provider/wallet":             1,
	"pkg/class":                       1,
	"pkg/volume":                      1,
	"pkg/tmpfs":                       1,
	"pkg/publish":                     2,
	"pkg/plugin":                      2,
	"pkg/node":                        3,
	"pkg/rotate":                      3,
	"pkg/audit":                       3,
	"pkg/metrics":                     3,
	"pkg/kube":                        3,
	"pkg/kube/registration":           3,
	"pkg/kube/secretobject":           2,
	"pkg/serve":                       1,
	"pkg/provider/providertest":       3,
	"pkg/provider/coalesce":           3,
	"pkg/provider/limit":              3,
	"pkg/driver":                      4,
}

// sameFloor lists the imports between packages of one floor that are meant.
var sameFloor = map[string][]string{
	"pkg/provider/params": {"pkg/provider"},
	"pkg/provider/wallet": {"pkg/provider"},
	"pkg/volume":          {"pkg/class", "pkg/provider"},
}

// ground lists what the packages that every other one stands on may import
// besides the standard library.
var ground = map[string][]string{
	"pkg/secret":            {},
	"pkg/atomicdir":         {"golang.org/x/sys/"},
	"pkg/tmpfs/userns":      {"golang.org/x/sys/"},
	"pkg/plugin/v1alpha1":   {"google.golang.org/grpc", "google.golang.org/protobuf/"},
	"pkg/plugin/keymountv1": {"google.golang.org/grpc", "google.golang.org/protobuf/"},
}

// providerMayImport is all that a provider sees of the product.
var providerMayImport = []string{"pkg/keystore", "pkg/provider", "pkg/provider/params", "pkg/provider/wallet", "pkg/secret", "pkg/trace"}

// storeMayImport is what the store in memory sees that a provider is tested
// with.
var storeMayImport = []string{"pkg/provider/providertest/pipe", "pkg/provider/providertest/trust"}

// reserved names the few packages that may import a library.
var reserved = []struct {
	module, reason string
	owners         []string
}{
	{"github.com/container-storage-interface/spec", "kubelet's messages are translated in one place; `try` plays kubelet", []string{"pkg/node", "cmd/keymount"}},
	{"k8s.io/client-go", "everything else runs without a cluster", []string{"pkg/kube"}},
	{"k8s.io/apimachinery", "everything else runs without a cluster", []string{"pkg/kube"}},
	{"k8s.io/api", "everything else runs without a cluster", []string{"pkg/kube"}},
}

func TestPackagesImportOnlyLowerFloors(t *testing.T) { report(t, floorViolations(repository(t))) }

// floorViolations checks the imports of every file that is no test.
func floorViolations(sources []*source) []string {
	found := map[string]bool{}
	for _, s := range sources {
		if _, known := floors[s.dir()]; !known && s.under("pkg") {
			found[fmt.Sprintf("%s has no floor: put it into the table in test/arch/floors_test.go", s.dir())] = true
			continue
		}
		if s.Test {
			continue
		}
		for _, imported := range s.imports() {
			if reason := mayImport(s.dir(), imported); reason != "" {
				found[fmt.Sprintf("%s imports %s: %s", s.Path, imported, reason)] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(found))
}

// mayImport returns why the package must not import the other, or "".
func mayImport(from, imported string) string {
	own, isOwn := strings.CutPrefix(imported, module+"/")
	if !isOwn {
		return mayImportLibrary(from, imported)
	}
	floor, inPkg := floors[from]
	switch {
	case within(from, "test") || within(own, from): // test tools, and a main's own parts
		return ""
	case within(own, "test") || within(own, "cmd"):
		return "nothing stands on tests or commands"
	case within(from, "providers"):
		return providerImport(from, own)
	case within(from, "cmd"):
		floor = cmdFloor
		if within(own, "providers") && from == "cmd/keymount-driver" {
			return "the privileged binary holds no provider"
		}
	case inPkg && within(own, "providers"):
		return "no package knows a provider"
	}
	if floors[own] < floor || slices.Contains(sameFloor[from], own) {
		return ""
	}
	return fmt.Sprintf("it is on floor %d, not below floor %d", floors[own], floor)
}

// providerImport is mayImport for providers and their list.
func providerImport(from, own string) string {
	switch {
	case slices.Contains(providerMayImport, own), slices.Contains(storeMayImport, own) && strings.HasSuffix(from, "test"):
		return ""
	case from == "providers" && (within(own, "providers") || floors[own] < 2):
		return ""
	case within(own, "providers"):
		return "a provider knows no other"
	default:
		return "a provider sees only " + strings.Join(providerMayImport, ", ")
	}
}

// mayImportLibrary is mayImport for packages of other modules.
func mayImportLibrary(from, imported string) string {
	if host, _, _ := strings.Cut(imported, "/"); !strings.Contains(host, ".") {
		return "" // the standard library
	}
	if allowed, ok := ground[from]; ok && !slices.ContainsFunc(allowed, func(p string) bool { return strings.HasPrefix(imported, p) }) {
		return "every other package stands on this one: it imports the standard library and " + fmt.Sprint(allowed)
	}
	for _, r := range reserved {
		if within(imported, r.module) && !slices.Contains(r.owners, from) && !within(from, "test") {
			return fmt.Sprintf("that is for %s alone: %s", r.owners, r.reason)
		}
	}
	return ""
}

// within reports whether the path is the folder or below it.
func within(p, folder string) bool { return p == folder || strings.HasPrefix(p, folder+"/") }
