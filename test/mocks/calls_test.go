package mocks_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/golang/mock/gomock"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/node"
	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
	"github.com/keymount/keymount/test/mocks"
)

// oneClass is a source that has one class.
type oneClass struct{}

func (oneClass) Class(context.Context, class.Name) (*class.Class, error) {
	return &class.Class{Name: class.Name{Namespace: "ns", Name: "c"}, Revision: "1", Provider: "mock"}, nil
}

func (oneClass) Changes(ctx context.Context, _ func(class.Name)) error {
	<-ctx.Done()
	return ctx.Err()
}

func aVolume(target string) volume.Volume {
	return volume.Volume{
		ID: "v", Target: target, Class: class.Name{Namespace: "ns", Name: "c"},
		Pod: provider.Pod{Namespace: "ns", Name: "p", UID: "u", ServiceAccount: "sa"},
	}
}

// A republish that is not due costs one look at the mount: the strict mock
// fails on any other call.
func TestARepublishThatIsNotDueLooksAtTheMountOnce(t *testing.T) {
	mounts := mocks.NewMockMounter(gomock.NewController(t))
	target := t.TempDir()
	const mount = 7
	dir, err := os.Open(target)
	if err != nil {
		t.Fatal(err)
	}
	gomock.InOrder(
		mounts.EXPECT().Mounted(target).Return(uint64(0), nil), // nobody's
		mounts.EXPECT().Mount(target, gomock.Any()).Return(uint64(mount), false, nil),
		mounts.EXPECT().Open(target, uint64(mount)).Return(dir, nil),
		mounts.EXPECT().Mounted(target).Return(uint64(mount), nil).Times(1), // after the write
		mounts.EXPECT().Mounted(target).Return(uint64(mount), nil).Times(1), // the republish
	)
	server := mocks.NewMockCSIDriverProviderServer(gomock.NewController(t))
	server.EXPECT().Mount(gomock.Any(), gomock.Any()).Return(reply(), nil).Times(1)
	s := publish.New(publish.Config{
		Classes: oneClass{}, Providers: serve(t, server), Mounts: mounts, Volumes: &volume.Memory{},
		Schedule: &publish.Schedule{},
	})
	for range 2 {
		if _, err := s.Publish(t.Context(), aVolume(target)); err != nil {
			t.Fatal(err)
		}
	}
}

// Unpublish unmounts and asks nobody.
func TestUnpublishCallsNoProvider(t *testing.T) {
	mounts := mocks.NewMockMounter(gomock.NewController(t))
	server := mocks.NewMockCSIDriverProviderServer(gomock.NewController(t)) // expects no call
	volumes := &volume.Memory{}
	if err := volumes.Put(volume.Record{ID: "v", Target: "/t", Mount: 7, Provider: "mock"}); err != nil {
		t.Fatal(err)
	}
	mounts.EXPECT().Open("/t", uint64(7)).Return(nil, os.ErrNotExist).Times(1) // nothing can be overwritten
	mounts.EXPECT().Unmount("/t").Return(nil).Times(1)
	s := publish.New(publish.Config{Classes: oneClass{}, Providers: serve(t, server), Mounts: mounts, Volumes: volumes})
	if err := s.Unpublish(t.Context(), "v", "/t"); err != nil {
		t.Fatal(err)
	}
}

// A request that is refused reaches nobody.
func TestARefusedRequestCallsNoPublisher(t *testing.T) {
	pub := mocks.NewMockPublisher(gomock.NewController(t)) // expects no call
	_, err := (&node.Server{Publisher: pub}).NodePublishVolume(t.Context(), &csi.NodePublishVolumeRequest{VolumeId: "v"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("error = %v, want InvalidArgument", err)
	}
}

func reply() *v1alpha1.MountResponse {
	return &v1alpha1.MountResponse{
		ObjectVersion: []*v1alpha1.ObjectVersion{{Id: "o", Version: "1"}},
		Files:         []*v1alpha1.File{{Path: "f", Mode: 0o644, Contents: []byte("x")}},
	}
}

// mocked is a provider process whose Mount is the mock's.
type mocked struct {
	v1alpha1.UnimplementedCSIDriverProviderServer
	mock *mocks.MockCSIDriverProviderServer
}

func (m mocked) Mount(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	return m.mock.Mount(ctx, req)
}

// serve puts the mock of a provider process behind a socket.
func serve(t *testing.T, server *mocks.MockCSIDriverProviderServer) provider.Lookup {
	t.Helper()
	dir, err := os.MkdirTemp("", "mock")
	if err != nil {
		t.Fatal(err)
	}
	lis, err := net.Listen("unix", filepath.Join(dir, "mock.sock"))
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	v1alpha1.RegisterCSIDriverProviderServer(s, mocked{mock: server})
	served := make(chan error, 1)
	go func() { served <- s.Serve(lis) }()
	plugins := plugin.NewDir([]string{dir}, nil)
	t.Cleanup(func() {
		_ = plugins.Close()
		s.Stop()
		if err := <-served; err != nil && !errors.Is(err, grpc.ErrServerStopped) { // stopped before it began
			t.Error(err)
		}
		_ = os.RemoveAll(dir)
	})
	return plugins.Lookup
}
