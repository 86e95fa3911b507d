package deploy

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/driver"
)

// driverFlags returns the driver's flags as its container sets them, and what
// the driver makes of them.
func driverFlags(t *testing.T, file string) (value func(name string) string, config driver.Config) {
	t.Helper()
	c := container(podOf(t, file), "driver")
	if !slices.Equal(c.Command, []string{"/keymount-driver"}) {
		t.Errorf("%s: the command is %q", file, c.Command)
	}
	flags := flag.NewFlagSet("keymount-driver", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	config.AddFlags(flags)
	klog.InitFlags(flags)
	args := strings.Split(strings.ReplaceAll(strings.Join(c.Args, "\n"), "$(NODE_NAME)", "node-1"), "\n")
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		t.Fatalf("%s: keymount-driver %q: %v, left over %q", file, args, err, flags.Args())
	}
	return func(name string) string { return flags.Lookup(name).Value.String() }, config
}

func TestTheDriverTakesItsFlags(t *testing.T) {
	for _, file := range rendered {
		value, config := driverFlags(t, file)
		if err := config.Validate(); err != nil {
			t.Errorf("%s: %v", file, err)
		}
		if got := value("nodeid"); got != "node-1" {
			t.Errorf("%s: the name of the node is %q", file, got)
		}
	}
}

// The rights and the flags that use them come together.
func TestTheDriverDoesWhatItHasTheRightsFor(t *testing.T) {
	for file, want := range map[string]string{standard: "false false false", plugins: "false false false", stores: "false false false", aws: "false false false", azure: "false false false", withSync: "true false false", everything: "true true true"} {
		value, _ := driverFlags(t, file)
		if got := value("sync-secrets") + " " + value("mint-tokens") + " " + value("remove-startup-taint"); got != want {
			t.Errorf("%s: syncs Secrets, makes tokens, removes the taint: %s, want %s", file, got, want)
		}
	}
}

// Who answers must be somebody who can.
func TestTheDriverWaitsForTheProvidersThatThereAre(t *testing.T) {
	for file, want := range map[string]string{standard: "file", withSync: "file", everything: "file,vault", plugins: "vault", stores: "file,vault", aws: "file,aws", azure: "file,azure", audited: "file"} {
		value, _ := driverFlags(t, file)
		if got := value("require-providers"); got != want {
			t.Errorf("%s: waits for %q, want %q", file, got, want)
		}
	}
}

// Paths in flags are paths in the container, and lead to what is mounted there.
func TestTheDriversPathsAreMounted(t *testing.T) {
	for _, file := range rendered {
		mounted := map[string]bool{}
		for _, m := range container(podOf(t, file), "driver").VolumeMounts {
			mounted[m.MountPath] = true
		}
		mounted["/provider/run"] = mounted["/provider"] // the providers make it, for themselves and root
		value, _ := driverFlags(t, file)
		paths := append(strings.Split(value("additional-provider-volume-paths"), ","), value("provider-volume"), value("state-dir"),
			value("registration-dir"), value("kubelet-root")+"/pods", filepath.Dir(strings.TrimPrefix(value("endpoint"), "unix://")))
		for _, p := range paths {
			if !mounted[p] {
				t.Errorf("%s: the driver looks at %q, where nothing is mounted", file, p)
			}
		}
	}
}

// Kubelet is told the node's path of the socket that the driver makes.
func TestKubeletFindsTheSocket(t *testing.T) {
	for _, file := range rendered {
		pod := podOf(t, file)
		value, _ := driverFlags(t, file)
		socket, registered := strings.TrimPrefix(value("endpoint"), "unix://"), value("kubelet-registration-path")
		for _, v := range pod.Volumes {
			if mounts(container(pod, "driver"))[v.Name].MountPath == filepath.Dir(socket) {
				if want := v.HostPath.Path + "/" + filepath.Base(socket); registered != want {
					t.Errorf("%s: kubelet would look at %s, the socket is %s", file, registered, want)
				}
			}
		}
	}
}

func TestTheDriversProbesAskItsMetricsPort(t *testing.T) {
	for _, file := range rendered {
		c := container(podOf(t, file), "driver")
		value, _ := driverFlags(t, file)
		if len(c.Ports) != 1 || c.Ports[0].Name != "metrics" || value("metrics-addr") != fmt.Sprintf(":%d", c.Ports[0].ContainerPort) {
			t.Errorf("%s: the driver listens on %s, the container has the ports %+v", file, value("metrics-addr"), c.Ports)
		}
		for probe, want := range map[*corev1.Probe]string{c.StartupProbe: "/healthz", c.LivenessProbe: "/healthz", c.ReadinessProbe: "/readyz"} {
			if get := probe.HTTPGet; get == nil || get.Path != want || get.Port.String() != "metrics" {
				t.Errorf("%s: the probe of %s is %+v", file, want, get)
			}
		}
	}
}

// The container of the providers is run as it is, in other folders: it starts,
// passes its own probes, and fails them once it is gone.
func TestTheProvidersPassTheirProbes(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-trimpath", "-o", bin, "./cmd/keymount-provider")
	build.Dir, build.Env = repository, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", build, err, out)
	}
	for _, file := range []string{standard, everything, stores, aws, azure} {
		c := container(podOf(t, file), "providers")
		sockets, err := os.MkdirTemp("", "") // the path of a socket must be short
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = os.RemoveAll(sockets) })
		key := ageKey(t)
		local := func(args []string) *exec.Cmd {
			line := strings.NewReplacer("/keymount-provider", filepath.Join(bin, "keymount-provider"), "/provider", sockets,
				"/etc/keymount/secrets", t.TempDir(), "/etc/keymount/key/key.txt", key).Replace(strings.Join(args, "\n"))
			fields := strings.Split(line, "\n")
			return exec.Command(fields[0], fields[1:]...)
		}
		stop := serve(t, local(append(slices.Clone(c.Command), c.Args...)))
		probes := []*corev1.Probe{c.StartupProbe, c.LivenessProbe, c.ReadinessProbe}
		for _, probe := range probes {
			if out, err := local(probe.Exec.Command).CombinedOutput(); err != nil {
				t.Errorf("%s: %q while the providers serve: %v\n%s", file, probe.Exec.Command, err, out)
			}
		}
		stop()
		if out, err := local(probes[0].Exec.Command).CombinedOutput(); err == nil {
			t.Errorf("%s: %q passes although nobody serves\n%s", file, probes[0].Exec.Command, out)
		}
	}
}

// ageKey returns a file of an age identity.
func ageKey(t *testing.T) string {
	t.Helper()
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "key.txt")
	if err := os.WriteFile(name, []byte(identity.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// serve starts the providers, waits until they serve, and returns how to stop them.
func serve(t *testing.T, cmd *exec.Cmd) (stop func()) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines, log := bufio.NewScanner(stderr), ""
	for !strings.Contains(log, "Provider serves") && lines.Scan() {
		log += lines.Text() + "\n"
	}
	if !strings.Contains(log, "Provider serves") {
		t.Fatalf("%v: %v\n%s", cmd, cmd.Wait(), log)
	}
	return func() {
		t.Helper()
		_ = cmd.Process.Signal(os.Interrupt)
		for lines.Scan() {
			log += lines.Text() + "\n"
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v: %v\n%s", cmd, err, log)
		}
	}
}
