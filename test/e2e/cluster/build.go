package cluster

import (
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// needs are what must be there before a cluster can be tested.
type needs struct {
	files  map[string]string // paths, which may be patterns, or programs of the machine -> Debian package
	builds []build
}

// A build is one call of the go command in a module of this repository.
type build struct {
	name string
	dir  string // of the module, from the folder of the tests
	args []string
	env  []string
}

// upstreamDriver is the package of the driver that a cluster may have now.
const upstreamDriver = "sigs.k8s.io/secrets-store-csi-driver/cmd/secrets-store-csi-driver"

// foreignNeeds is what the tests themselves and the images need.
func foreignNeeds() needs {
	return needs{
		files: map[string]string{busybox: "busybox-static", authorities: "ca-certificates"},
		builds: []build{
			{name: "keymount", dir: "../..", args: []string{"build", "-ldflags=-s -w -X main.version=v0.0.0-e2e", "-o=BIN/", "./cmd/keymount-driver", "./cmd/keymount-provider"},
				env: []string{"GOEXPERIMENT=runtimesecret"}}, // as it is released
			{name: "mockprovider", dir: ".", args: []string{"build", "-ldflags=-s -w", "-o=BIN/", "./mockprovider"}},
			{name: "upstream driver", dir: "upstream", args: []string{"build", "-ldflags=-s -w", "-o=BIN/", "./registrar", upstreamDriver}},
		},
	}
}

// localNeeds adds what makes a node.
func localNeeds() needs {
	n := foreignNeeds()
	for path, pkg := range map[string]string{
		"containerd": "containerd", "ctr": "containerd", "runc": "runc",
		"/usr/lib/cni/bridge": "containernetworking-plugins", "/usr/lib/cni/host-local": "containernetworking-plugins",
		"/usr/lib/postgresql/*/bin/postgres": "postgresql", "jq": "jq", // of the stores on it
	} {
		n.files[path] = pkg
	}
	kube := build{name: "Kubernetes and etcd", dir: "kubernetes", args: []string{"build", "-ldflags=-s -w " + kubernetesVersion, "-o=BIN/kube", "."}}
	n.builds = append([]build{kube}, n.builds...)
	return n
}

// kubernetesVersion makes the servers say which version they are.
const kubernetesVersion = "-X k8s.io/component-base/version.gitVersion=VERSION" +
	" -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=MINOR" +
	" -X k8s.io/client-go/pkg/version.gitVersion=VERSION"

// prepare installs packages, builds programs and writes images.
func prepare(ctx context.Context, l layout, n needs) error {
	if err := install(ctx, n.files); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.bin("x")), 0o755); err != nil {
		return err
	}
	if !exists(l.bin("kube")) {
		say("the first build of Kubernetes takes about 14 minutes of CPU time")
	}
	for _, b := range n.builds {
		if err := step("build "+b.name, func() error { return b.run(ctx, l) }); err != nil {
			return err
		}
	}
	if err := step("build helm", func() error { return buildHelm(ctx, l) }); err != nil {
		return err
	}
	for _, name := range kubePrograms() {
		if err := link("kube", l.bin(name)); err != nil {
			return err
		}
	}
	return step("write images", func() error { return writeImages(ctx, l) })
}

// step tells how long something took.
func step(what string, do func() error) error {
	begin := time.Now()
	if err := do(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	say("%6.1f s  %s", time.Since(begin).Seconds(), what)
	return nil
}

func (b build) run(ctx context.Context, l layout) error {
	replacer := []string{"BIN", filepath.Clean(l.bin(""))}
	if b.dir == "kubernetes" {
		version, err := exec.CommandContext(ctx, "go", "-C", b.dir, "list", "-m", "-f={{.Version}}", "k8s.io/kubernetes").Output()
		if err != nil {
			return fmt.Errorf("go list: %w", err)
		}
		v := strings.TrimSpace(string(version))
		replacer = append(replacer, "VERSION", v, "MINOR", strings.SplitN(v, ".", 3)[1])
	}
	fill := strings.NewReplacer(replacer...)
	cmd := exec.CommandContext(ctx, "go", "-C", b.dir, b.args[0], "-trimpath")
	for _, arg := range b.args[1:] {
		cmd.Args = append(cmd.Args, fill.Replace(arg))
	}
	cmd.Env = append(append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off"), b.env...)
	return run(cmd)
}

// helmVersion is that of the Makefile, which builds helm at the same place.
const helmVersion = "v4.3.1"

func buildHelm(ctx context.Context, l layout) error {
	dir := filepath.Join(filepath.Dir(l.cache), "keymount", "helm-"+helmVersion)
	if !exists(filepath.Join(dir, "helm")) {
		cmd := exec.CommandContext(ctx, "go", "install", "-trimpath", "-ldflags=-s -w", "helm.sh/helm/v4/cmd/helm@"+helmVersion)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=", "GOBIN="+dir)
		if err := run(cmd); err != nil {
			return err
		}
	}
	return link(filepath.Join(dir, "helm"), l.bin("helm"))
}

// run runs a command; its output is in the error.
func run(cmd *exec.Cmd) error {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, &out)
	}
	return nil
}

func link(target, path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return os.Symlink(target, path)
}

// install installs the Debian packages of files that are not there.
func install(ctx context.Context, files map[string]string) error {
	missing := lacking(files)
	if len(missing) == 0 {
		return nil
	}
	list := strings.Join(missing, " ")
	if os.Geteuid() != 0 {
		return fmt.Errorf("this machine lacks Debian's %s; install them as root", list)
	}
	err := step("install "+list, func() error {
		return patiently(time.Minute, func() error {
			apt := func(args ...string) error {
				cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-qq"}, args...)...)
				cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
				return run(cmd)
			}
			if err := apt("update"); err != nil {
				return err
			}
			return apt(append([]string{"install", "-y", "--no-install-recommends"}, missing...)...)
		})
	})
	if left := lacking(files); err == nil && len(left) > 0 {
		err = fmt.Errorf("Debian's %s were installed, and do not have all of %v", strings.Join(left, " "), slices.Sorted(maps.Keys(files)))
	}
	return err
}

// lacking returns the packages of the files that are not there.
func lacking(files map[string]string) (packages []string) {
	for file, pkg := range files {
		found, _ := filepath.Glob(file)
		if path, err := exec.LookPath(file); err != nil && len(found) == 0 || file == busybox && !static(path) {
			packages = append(packages, pkg)
		}
	}
	slices.Sort(packages)
	return slices.Compact(packages)
}

// static reports whether a program runs without any library.
func static(path string) bool {
	f, err := elf.Open(path)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }() // it was only read
	return !slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
}
