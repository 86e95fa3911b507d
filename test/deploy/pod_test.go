package deploy

import (
	"maps"
	"path"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
)

// ptr returns a pointer to v.
func ptr[T any](v T) *T { return &v }

// podOf returns the DaemonSet's pod.
func podOf(t *testing.T, file string) corev1.PodSpec {
	t.Helper()
	return one[appsv1.DaemonSet](t, file, "DaemonSet").Spec.Template.Spec
}

// container returns the container of a name, nil if there is none.
func container(pod corev1.PodSpec, name string) *corev1.Container {
	i := slices.IndexFunc(pod.Containers, func(c corev1.Container) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &pod.Containers[i]
}

// mounts returns the mounts of a container by the name of the volume.
func mounts(c *corev1.Container) map[string]corev1.VolumeMount {
	byName := map[string]corev1.VolumeMount{}
	for _, m := range c.VolumeMounts {
		byName[m.Name] = m
	}
	return byName
}

func TestThePodSharesNothingWithTheNode(t *testing.T) {
	for _, file := range rendered {
		pod := podOf(t, file)
		if pod.HostNetwork || pod.HostPID || pod.HostIPC || pod.ShareProcessNamespace != nil {
			t.Errorf("%s: the pod shares a namespace with the node, or between its containers", file)
		}
		if len(pod.InitContainers) > 0 || len(pod.Containers) > 2 {
			t.Errorf("%s: there are more containers than the driver and the providers", file)
		}
	}
}

func TestOnlyTheDriverIsPrivilegedAndItsRootIsReadOnly(t *testing.T) {
	want := &corev1.SecurityContext{
		Privileged:             ptr(true),
		ReadOnlyRootFilesystem: ptr(true),
		RunAsUser:              ptr[int64](0),
		RunAsGroup:             ptr[int64](0),
	}
	for _, file := range rendered {
		pod := podOf(t, file)
		if diff := cmp.Diff(want, container(pod, "driver").SecurityContext); diff != "" {
			t.Errorf("%s: driver: -want +got\n%s", file, diff)
		}
		for _, c := range pod.Containers {
			for _, m := range c.VolumeMounts {
				if m.MountPropagation != nil && (c.Name != "driver" || m.Name != "pods") {
					t.Errorf("%s: mounts in %s of %s propagate", file, m.MountPath, c.Name)
				}
			}
		}
	}
}

func TestTheProvidersHaveNoPrivilege(t *testing.T) {
	want := &corev1.SecurityContext{
		RunAsNonRoot:             ptr(true),
		RunAsUser:                ptr[int64](65532),
		RunAsGroup:               ptr[int64](65532),
		AllowPrivilegeEscalation: ptr(false),
		Privileged:               ptr(false),
		ReadOnlyRootFilesystem:   ptr(true),
		Capabilities:             &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile:           &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	for _, file := range []string{standard, withSync, everything, stores, aws, azure} {
		providers := container(podOf(t, file), "providers")
		if diff := cmp.Diff(want, providers.SecurityContext); diff != "" {
			t.Errorf("%s: providers: -want +got\n%s", file, diff)
		}
		for _, m := range providers.VolumeMounts {
			if !m.ReadOnly && m.Name != "sockets" {
				t.Errorf("%s: the providers may write to %s", file, m.MountPath)
			}
		}
		if len(providers.Ports) > 0 {
			t.Errorf("%s: the providers listen on a port", file)
		}
	}
	if c := container(podOf(t, plugins), "providers"); c != nil {
		t.Errorf("%s: there is a container for no provider", plugins)
	}
}

func TestTheAPITokenIsForTheDriverAlone(t *testing.T) {
	for _, file := range rendered {
		pod := podOf(t, file)
		if pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
			t.Errorf("%s: kubelet would mount the token into every container", file)
		}
		var withToken []string
		for _, v := range pod.Volumes {
			if v.Projected == nil {
				continue
			}
			for _, c := range pod.Containers {
				if m, ok := mounts(&c)[v.Name]; ok {
					withToken = append(withToken, c.Name+" "+m.MountPath)
				}
			}
		}
		if diff := cmp.Diff([]string{"driver /var/run/secrets/kubernetes.io/serviceaccount"}, withToken); diff != "" {
			t.Errorf("%s: -want +got\n%s", file, diff)
		}
	}
}

// What of the node a container sees: where, and whether it may write.
func TestTheNodeIsReachedOnlyWhereThatIsNeeded(t *testing.T) {
	driver := func(kubelet string, folders ...string) map[string]string {
		want := map[string]string{
			kubelet + "/plugins/csi-secrets-store": "driver /csi rw",
			kubelet + "/plugins_registry":          "driver /registration rw",
			kubelet + "/pods":                      "driver " + kubelet + "/pods rw",
			"/run/keymount":                        "driver /run/keymount rw",
		}
		for _, folder := range folders {
			want[folder] = "driver " + folder + " ro"
		}
		return want
	}
	usual := driver("/var/lib/kubelet", "/etc/kubernetes/secrets-store-csi-providers", "/var/run/secrets-store-csi-providers")
	unusual := driver("/var/data/kubelet", "/opt/providers")
	unusual["/var/log/keymount"] = "driver /var/log/keymount rw"
	unusual["/srv/secrets"] = "providers /etc/keymount/secrets ro"
	for file, want := range map[string]map[string]string{standard: usual, withSync: usual, plugins: usual, stores: usual, aws: usual, azure: usual, everything: unusual} {
		pod, got := podOf(t, file), map[string]string{}
		for _, v := range pod.Volumes {
			if v.HostPath == nil {
				continue
			}
			for _, c := range pod.Containers {
				if m, ok := mounts(&c)[v.Name]; ok {
					got[v.HostPath.Path] += c.Name + " " + m.MountPath + map[bool]string{true: " ro", false: " rw"}[m.ReadOnly]
				}
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: -want +got\n%s", file, diff)
		}
	}
}

func TestTheSocketsOfTheProvidersAreInMemory(t *testing.T) {
	for _, file := range rendered {
		pod := podOf(t, file)
		i := slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == "sockets" })
		if empty := pod.Volumes[i].EmptyDir; empty == nil || empty.Medium != corev1.StorageMediumMemory {
			t.Errorf("%s: the volume of the sockets is %+v", file, pod.Volumes[i])
		}
		if m := mounts(container(pod, "driver"))["sockets"]; m.MountPath != "/provider" || !m.ReadOnly {
			t.Errorf("%s: the driver has the sockets as %+v", file, m)
		}
	}
}

// A mount of a volume that does not exist, and a volume that nobody mounts,
// are mistakes.
func TestVolumesAndMountsBelongTogether(t *testing.T) {
	for _, file := range rendered {
		pod, used, defined := podOf(t, file), map[string]bool{}, map[string]bool{}
		for _, c := range pod.Containers {
			for name, m := range mounts(&c) {
				used[name] = true
				if !path.IsAbs(m.MountPath) {
					t.Errorf("%s: %s is mounted at %q", file, name, m.MountPath)
				}
			}
		}
		for _, v := range pod.Volumes {
			defined[v.Name] = true
		}
		if diff := cmp.Diff(slices.Sorted(maps.Keys(defined)), slices.Sorted(maps.Keys(used))); diff != "" {
			t.Errorf("%s: -volumes +mounts\n%s", file, diff)
		}
	}
}

func TestTheContainersShareOneImage(t *testing.T) {
	for _, file := range []string{standard, withSync, everything, stores, aws, azure} {
		pod := podOf(t, file)
		driver, providers := container(pod, "driver"), container(pod, "providers")
		if driver.Image != providers.Image || driver.ImagePullPolicy != providers.ImagePullPolicy {
			t.Errorf("%s: the driver is of %s, the providers of %s", file, driver.Image, providers.Image)
		}
	}
	if got, want := container(podOf(t, everything), "driver").Image, "registry.example/mirror/keymount@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"; got != want {
		t.Errorf("the image by digest is %s, want %s", got, want)
	}
}

// One driver of a node has to stop before the next one starts: they would
// fight over one socket and one state folder.
func TestTwoDriversOfANodeNeverRunAtOnce(t *testing.T) {
	for _, file := range rendered {
		if rolling := one[appsv1.DaemonSet](t, file, "DaemonSet").Spec.UpdateStrategy.RollingUpdate; rolling.MaxSurge != nil {
			t.Errorf("%s: maxSurge is %v", file, rolling.MaxSurge)
		}
	}
}
