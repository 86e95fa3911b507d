package arch

import (
	"strings"
	"testing"
	"testing/fstest"
)

// TestEveryRuleFindsItsViolation gives each rule one file that breaks it and
// one like it that does not.
func TestEveryRuleFindsItsViolation(t *testing.T) {
	const head = "// Package x is a test.\npackage x\n"
	long := head + "func f() {\n" + strings.Repeat("\tg()\n", maxFunction) + "}\n"
	for _, c := range []struct {
		name            string
		rule            func([]*source) []string
		file, bad, good string
	}{
		{"a package without a floor", floorViolations, "pkg/unknown/x.go", head, ""},
		{"a higher floor", floorViolations, "pkg/volume/x.go", imports("pkg/publish"), imports("pkg/secret")},
		{"the same floor", floorViolations, "pkg/rotate/x.go", imports("pkg/node"), imports("pkg/publish")},
		{"the same floor where it is not meant", floorViolations, "pkg/class/x.go", imports("pkg/provider"), imports("pkg/secret")},
		{"a test imported", floorViolations, "pkg/driver/x.go", imports("test/kit"), imports("pkg/node")},
		{"a command imported", floorViolations, "pkg/driver/x.go", imports("cmd/keymount"), imports("pkg/node")},
		{"a provider in a package", floorViolations, "pkg/driver/x.go", imports("providers/file"), imports("pkg/plugin")},
		{"a provider in the driver's main", floorViolations, "cmd/keymount-driver/x.go", imports("providers"), imports("pkg/driver")},
		{"a provider that knows another", floorViolations, "providers/vault/x.go", imports("providers/file"), imports("pkg/provider/params")},
		{"a provider that knows publishing", floorViolations, "providers/vault/x.go", imports("pkg/publish"), imports("pkg/secret")},
		{"a library on the ground floor", floorViolations, "pkg/secret/x.go", library("golang.org/x/sys/unix"), library("crypto/subtle")},
		{"the CSI spec outside node", floorViolations, "pkg/driver/x.go", library("github.com/container-storage-interface/spec/lib/go/csi"), library("google.golang.org/grpc")},
		{"client-go outside kube", floorViolations, "pkg/class/x.go", library("k8s.io/client-go/kubernetes"), library("sigs.k8s.io/yaml")},
		{"no package comment", packageComments, "pkg/node/x.go", "package x\n", head},
		{"a package comment of another package", packageComments, "pkg/node/x.go", "// Package y is a test.\npackage x\n", head},
		{"plaintext in another package", revealViolations, "pkg/node/x.go", head + "var r = v.Reveal\n", head + "var r = v.Len\n"},
		{"an exit", exitViolations, "pkg/node/x.go", head + "import \"os\"\nfunc f() { os.Exit(1) }\n", head + "import \"os\"\nfunc f() { os.Getpid() }\n"},
		{"a fatal log", exitViolations, "pkg/node/x.go", head + "import \"k8s.io/klog/v2\"\nfunc f() { klog.FatalS(nil, \"\") }\n", head + "import \"k8s.io/klog/v2\"\nfunc f() { klog.InfoS(\"\") }\n"},
		{"a fatal log under another name", exitViolations, "pkg/node/x.go", head + "import l \"log\"\nfunc f() { l.Fatalln() }\n", head + "import l \"log\"\nfunc f() { l.Println() }\n"},
		{"a panic", exitViolations, "pkg/node/x.go", head + "func f() { panic(1) }\n", head + "func f() { recover() }\n"},
		{"the environment", environmentViolations, "pkg/node/x.go", head + "import \"os\"\nvar x = os.Getenv(\"X\")\n", head + "import \"os\"\nvar x = os.Getpid()\n"},
		{"an init function", initViolations, "pkg/node/x.go", head + "func init() {}\n", head + "func (t) init() {}\n"},
		{"a process", processViolations, "pkg/node/x.go", library("os/exec"), library("os")},
		{"a process without os/exec", processViolations, "pkg/tmpfs/x.go", head + "import \"syscall\"\nfunc f() { syscall.ForkExec() }\n", head + "import \"syscall\"\nfunc f() { syscall.Kill() }\n"},
		{"the table of mounts parsed", mountTableViolations, "pkg/tmpfs/x.go", head + "import \"k8s.io/mount-utils\"\nvar x = mount.ParseMountInfo\n", head + "import \"k8s.io/mount-utils\"\nvar x = mount.IsCorruptedMnt\n"},
		{"the table of mounts by name", mountTableViolations, "pkg/node/x.go", head + "var x = \"/proc/self/mountinfo\"\n", head + "var x = \"/proc/self/fd\" // not mountinfo\n"},
		{"a test that sleeps", waitViolations, "pkg/node/x_test.go", head + "import \"time\"\nfunc f() { time.Sleep(1) }\n", head + "import \"time\"\nimport \"testing/synctest\"\nfunc f() { time.Sleep(1); synctest.Wait() }\n"},
		{"a test that skips", waitViolations, "pkg/node/x_test.go", head + "func f() { t.Skipf(\"later\") }\n", head + "func f() { t.Fatalf(\"now\") }\n"},
		{"bytes decoded and no fuzz target", fuzzViolations, "pkg/node/x.go", head + "import \"encoding/json\"\nvar x = json.Unmarshal\n", head + "import \"encoding/json\"\nvar x = json.Marshal\n"},
		{"a time parsed and no fuzz target", fuzzViolations, "providers/vault/x.go", head + "import \"time\"\nvar x = time.ParseDuration\n", head + "import \"time\"\nvar x = time.Now\n"},
		{"a long function", lengthViolations, "pkg/node/x_test.go", long, strings.Replace(long, "\tg()\n\tg()\n", "", 1)},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.rule(parseTree(t, fstest.MapFS{c.file: {Data: []byte(c.bad)}})); len(got) != 1 {
				t.Errorf("violations = %q, want one", got)
			}
			if c.good == "" {
				return
			}
			if got := c.rule(parseTree(t, fstest.MapFS{c.file: {Data: []byte(c.good)}})); len(got) != 0 {
				t.Errorf("violations of the good file = %q, want none", got)
			}
		})
	}
}

func TestALinkedLibraryIsFound(t *testing.T) {
	linked := []string{"fmt", "github.com/aws/aws-sdk-go-v2/config", "github.com/awsome/x", "testing/iotest"}
	if got := linkViolations("cmd/keymount-driver", mains["cmd/keymount-driver"], linked); len(got) != 2 {
		t.Errorf("violations = %q, want those of aws and testing", got)
	}
}

func imports(own string) string { return library(module + "/" + own) }

func library(path string) string {
	return "// Package x is a test.\npackage x\n\nimport _ \"" + path + "\"\n"
}
