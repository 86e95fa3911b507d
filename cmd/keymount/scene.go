package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"filippo.io/age"
	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/mount-utils"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/driver"
	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
	"github.com/keymount/keymount/providers/file"
)

// podName is the pod for which everything is published.
const podName = "try"

// A scene is a node in a folder: a store, a provider, a driver, and the
// volumes that a kubelet asks for.
type scene struct {
	dir     string // scratch, removed at the end
	classes string // folder of manifests
	secrets string // folder of plain text
	key     *age.X25519Identity
	mounts  publish.Mounter
	volumes []*tryVolume

	driver  *driver.Driver
	node    csi.NodeClient
	cleanup []func() error
}

// A tryVolume is one volume of the pod.
type tryVolume struct {
	class  *class.Class
	target string
}

func newScene(dir string, mounts publish.Mounter) (*scene, error) {
	classes, err := classesIn(dir)
	if err != nil {
		return nil, err
	}
	secrets := filepath.Join(dir, "secrets")
	if info, err := os.Stat(secrets); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("%s has no folder secrets with a subfolder for each namespace", dir)
	}
	key, err := age.GenerateX25519Identity()
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp("", "keymount-try-*")
	if err != nil {
		return nil, err
	}
	s := &scene{dir: scratch, classes: dir, secrets: secrets, key: key, mounts: mounts}
	s.cleanup = append(s.cleanup, func() error { return os.RemoveAll(scratch) })
	for i, c := range classes {
		v := &tryVolume{c, s.path("pods", fmt.Sprint(i), "mount")}
		s.volumes = append(s.volumes, v)
		s.cleanup = append(s.cleanup, func() error { return mounts.Unmount(v.target) }) // after a failure
	}
	return s, nil
}

// classesIn reads the classes of a folder.
func classesIn(dir string) ([]*class.Class, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("%w: run this from the top of the repository, or name a folder with manifests and secrets", err)
	}
	var classes []*class.Class
	for _, entry := range entries {
		if !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(entry.Name())) {
			continue
		}
		manifest := filepath.Join(dir, entry.Name())
		text, err := os.ReadFile(manifest)
		if err != nil {
			return nil, err
		}
		found, err := class.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", manifest, err)
		}
		classes = append(classes, found...)
	}
	if len(classes) == 0 {
		return nil, fmt.Errorf("no SecretProviderClass in the manifests of %s", dir)
	}
	return classes, nil
}

func (s *scene) path(elements ...string) string {
	return filepath.Join(append([]string{s.dir}, elements...)...)
}

// close stops what runs and removes the scratch folder.
func (s *scene) close() error {
	var errs []error
	for len(s.cleanup) > 0 {
		last := len(s.cleanup) - 1
		errs = append(errs, s.cleanup[last]())
		s.cleanup = s.cleanup[:last]
	}
	return errors.Join(errs...)
}

// background runs part of the scene until close.
func (s *scene) background(ctx context.Context, run func(context.Context) error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	s.cleanup = append(s.cleanup, func() error { cancel(); return <-ended })
}

// startProvider serves the store on a socket, as keymount-provider does.
func (s *scene) startProvider(ctx context.Context) error {
	identity := s.path("age-key.txt")
	if err := os.WriteFile(identity, []byte(s.key.String()+"\n"), 0o600); err != nil {
		return err
	}
	store, err := file.New(&file.Options{Root: s.path("store"), Identities: []string{identity}})
	if err != nil {
		return err
	}
	if err := os.Mkdir(s.path("providers"), 0o700); err != nil {
		return err
	}
	lis, err := net.Listen("unix", s.path("providers", "file.sock"))
	if err != nil {
		return err
	}
	s.background(ctx, func(ctx context.Context) error {
		return plugin.Serve(ctx, lis, store, &plugin.ServeOptions{Version: version})
	})
	return nil
}

// startDriver starts the node plugin and waits until it answers.
func (s *scene) startDriver(ctx context.Context) (time.Duration, error) {
	config := driver.Defaults()
	config.KubeletRoot = ""
	config.NodeID, config.Version = "this-machine", version
	config.Endpoint = "unix://" + s.path("csi.sock")
	config.ClassDir, config.StateDir = s.classes, s.path("state")
	config.ProviderDir, config.MoreProviders = s.path("providers"), ""
	config.MetricsAddr = ""
	began := time.Now()
	d, err := driver.New(config, &driver.Options{Mounts: s.mounts})
	if err != nil {
		return 0, err
	}
	s.driver = d
	s.background(ctx, d.Run)
	soon := backoff.Config{BaseDelay: time.Millisecond, Multiplier: 2, MaxDelay: 100 * time.Millisecond}
	conn, err := grpc.NewClient(config.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: soon, MinConnectTimeout: time.Second}))
	if err != nil {
		return 0, err
	}
	s.cleanup = append(s.cleanup, conn.Close)
	s.node = csi.NewNodeClient(conn)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = csi.NewIdentityClient(conn).Probe(ctx, &csi.ProbeRequest{}, grpc.WaitForReady(true))
	return time.Since(began), err
}

// publish asks for a volume as kubelet does when a pod starts.
func (s *scene) publish(ctx context.Context, v *tryVolume) (time.Duration, error) {
	began := time.Now()
	_, err := s.node.NodePublishVolume(ctx, &csi.NodePublishVolumeRequest{
		VolumeId: v.id(), TargetPath: v.target, Readonly: true,
		VolumeCapability: &csi.VolumeCapability{
			AccessType: &csi.VolumeCapability_Mount{Mount: &csi.VolumeCapability_MountVolume{}},
			AccessMode: &csi.VolumeCapability_AccessMode{Mode: csi.VolumeCapability_AccessMode_SINGLE_NODE_WRITER},
		},
		VolumeContext: map[string]string{
			"secretProviderClass":                    v.class.Name.Name,
			"csi.storage.k8s.io/ephemeral":           "true",
			"csi.storage.k8s.io/pod.namespace":       v.class.Name.Namespace,
			"csi.storage.k8s.io/pod.name":            podName,
			"csi.storage.k8s.io/pod.uid":             "00000000-0000-4000-8000-000000000000",
			"csi.storage.k8s.io/serviceAccount.name": podName,
		},
	})
	return time.Since(began), err
}

// unpublish asks for the end of a volume as kubelet does when a pod is gone.
func (s *scene) unpublish(ctx context.Context, v *tryVolume) (time.Duration, error) {
	began := time.Now()
	_, err := s.node.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: v.id(), TargetPath: v.target})
	return time.Since(began), err
}

// versions returns what the driver knows to be in a volume.
func (s *scene) versions(v *tryVolume) provider.Versions {
	rec, _ := s.driver.Volumes().Get(volume.ID(v.id()))
	return rec.Held.Versions
}

// leftovers names everything that unpublished volumes have left.
func (s *scene) leftovers() ([]string, error) {
	var left []string
	for _, v := range s.volumes {
		if _, err := os.Lstat(v.target); !errors.Is(err, fs.ErrNotExist) {
			left = append(left, "directory "+v.target)
		}
	}
	table, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for _, m := range table {
		if strings.HasPrefix(m.MountPoint, s.dir+"/") {
			left = append(left, "mount "+m.MountPoint)
		}
	}
	for _, rec := range s.driver.Volumes().List() {
		left = append(left, "record of "+string(rec.ID))
	}
	return left, nil
}

func (v *tryVolume) id() string {
	return "csi-try-" + v.class.Name.Namespace + "-" + v.class.Name.Name
}

// A shown file is what may be shown of a file.
type shown struct {
	path string
	size int64
	mode fs.FileMode
}

// files lists what the pod sees, in order.
func (v *tryVolume) files() ([]shown, error) {
	var files []shown
	// Behind the link is the generation of files that the pod sees now.
	generation, err := filepath.EvalSymlinks(filepath.Join(v.target, "..data"))
	if err != nil {
		return nil, err
	}
	err = filepath.WalkDir(generation, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, err := filepath.Rel(generation, path)
		files = append(files, shown{name, info.Size(), info.Mode().Perm()})
		return err
	})
	return files, err
}
