package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// programs are paths of what is run, and where they come from.
type programs struct {
	kube           string // etcd and kube-apiserver in one
	ours, provider string
	upstream       string
	versions       map[string]string // of modules
	ourVersion     string
	goVersion      string
}

// The modules of which versions are told.
const (
	kubernetesModule = "k8s.io/kubernetes"
	upstreamModule   = "sigs.k8s.io/secrets-store-csi-driver"
)

// build builds everything as it is released. Kubernetes is that of the end-to-end tests,
// at the same place, so that a user of this machine builds it once.
func build(ctx context.Context, repository string) (*programs, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return nil, err
	}
	bin, shared := filepath.Join(cache, "keymount-bench", "bin"), filepath.Join(cache, "keymount-e2e")
	for _, dir := range []string{bin, filepath.Join(shared, "bin")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	p := &programs{
		kube: filepath.Join(shared, "bin", "kube"), upstream: filepath.Join(bin, "secrets-store-csi-driver"),
		ours: filepath.Join(bin, "keymount-driver"), provider: filepath.Join(bin, "keymount-provider"), versions: map[string]string{},
	}
	b := builder{ctx, repository}
	kubernetes, upstream := filepath.Join("test", "e2e", "kubernetes"), filepath.Join("test", "e2e", "upstream")
	for module, dir := range map[string]string{kubernetesModule: kubernetes, upstreamModule: upstream} {
		if p.versions[module], err = b.output(dir, "go", "list", "-m", "-f={{.Version}}", module); err != nil {
			return nil, err
		}
	}
	if p.ourVersion, err = b.output("", "git", "describe", "--tags", "--always", "--dirty"); err != nil {
		return nil, err
	}
	if p.goVersion, err = b.output("", "go", "env", "GOVERSION"); err != nil {
		return nil, err
	}
	return p, errors.Join(
		b.kubernetes(kubernetes, p.kube, filepath.Join(shared, "lock"), p.versions[kubernetesModule]),
		// The flags of both are those of their own release builds.
		b.build("", "GOEXPERIMENT=runtimesecret", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -X main.version="+p.ourVersion, "-o="+bin+"/", "./cmd/keymount-driver", "./cmd/keymount-provider"),
		b.build(upstream, "", "-ldflags=-X "+upstreamModule+"/pkg/version.BuildVersion="+p.versions[upstreamModule], "-o="+p.upstream, upstreamModule+"/cmd/secrets-store-csi-driver"),
	)
}

// describe says what was built.
func (p *programs) describe() (built, error) {
	b := built{Ours: p.ourVersion, Upstream: p.versions[upstreamModule], Kubernetes: p.versions[kubernetesModule], Go: p.goVersion}
	for _, program := range []struct{ name, path string }{
		{"keymount-driver", p.ours}, {"keymount-provider", p.provider}, {"secrets-store-csi-driver", p.upstream},
	} {
		size, err := sizeOf(program.name, program.path)
		if err != nil {
			return b, err
		}
		b.Programs = append(b.Programs, size)
	}
	return b, nil
}

type builder struct {
	ctx        context.Context
	repository string
}

// kubernetes builds the servers, unless they are there. The lock is that of the end-to-end tests.
func (b builder) kubernetes(dir, out, lock, version string) error {
	f, err := os.OpenFile(lock, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", lock, err)
	}
	if _, err := os.Stat(out); err == nil {
		return nil
	}
	say("building Kubernetes takes about 14 minutes of CPU time, once")
	flags := "-ldflags=-s -w"
	for variable, value := range map[string]string{
		"k8s.io/component-base/version.gitVersion": version, "k8s.io/client-go/pkg/version.gitVersion": version,
		"k8s.io/component-base/version.gitMajor": "1", "k8s.io/component-base/version.gitMinor": strings.Split(version, ".")[1],
	} {
		flags += " -X " + variable + "=" + value
	}
	return b.build(dir, "", "-trimpath", flags, "-o="+out, ".")
}

func (b builder) build(dir, env string, args ...string) error {
	cmd := exec.CommandContext(b.ctx, "go", append([]string{"build"}, args...)...)
	cmd.Dir = filepath.Join(b.repository, dir)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", env)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return nil
}

func (b builder) output(dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(b.ctx, name, args...)
	cmd.Dir = filepath.Join(b.repository, dir)
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
