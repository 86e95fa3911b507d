package driver_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
)

// longest is more bytes than any error to kubelet may have.
const longest = 4 << 10

// A siege is a driver with somebody hostile, a neighbour who must not notice,
// and secrets that nobody may be told.
type siege struct {
	*rig
	logs     *syncBuffer
	canaries []string // the token and the credential of each request
	entries  []string // of the rig's folder, in peace
	tried    int
}

// besiege starts a driver once everything is arranged. It does not rotate, and
// so looks at classes anew for each volume.
func besiege(t *testing.T, arrange func(*siege)) *siege {
	t.Helper()
	s := &siege{logs: captureLogs(t), canaries: []string{rand.Text(), rand.Text()}}
	s.rig = prepareRig(t)
	s.config.Rotation, s.config.ProviderTimeout, s.config.TmpfsSize = false, time.Second, 2<<20
	neighbour := strings.Replace(manifestOf(t, s.path("classes/c.yaml")), "name: c", "name: neighbour", 1)
	if err := os.WriteFile(s.path("classes/neighbour.yaml"), []byte(neighbour), 0o644); err != nil {
		t.Fatal(err)
	}
	arrange(s)
	s.start()
	s.neighbourIsServed()
	s.entries = s.everything()
	return s
}

func manifestOf(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// neighbourIsServed publishes and removes a volume of another class.
func (s *siege) neighbourIsServed() {
	s.t.Helper()
	req := s.request("neighbour")
	req.VolumeContext["secretProviderClass"] = "neighbour"
	if err := s.send(req); err != nil {
		s.t.Errorf("a neighbour is not served: %v", err)
		return
	}
	s.becomes("neighbour", "first")
	if err := s.unpublish("neighbour"); err != nil {
		s.t.Error(err)
	}
}

// everything returns the paths below the rig's folder.
func (s *siege) everything() (all []string) {
	s.t.Helper()
	err := filepath.WalkDir(s.dir, func(path string, _ fs.DirEntry, err error) error {
		all = append(all, path)
		return err
	})
	if err != nil {
		s.t.Error(err)
	}
	return all
}

// attack is a request whose token and credential are canaries.
func (s *siege) attack() *csi.NodePublishVolumeRequest {
	s.tried++
	req := s.request(fmt.Sprint("victim-", s.tried))
	req.VolumeContext["csi.storage.k8s.io/serviceAccount.name"] = "of-" + req.VolumeId // they share no fetch
	req.Secrets = map[string]string{"client": s.canaries[0]}
	req.VolumeContext["csi.storage.k8s.io/serviceAccount.tokens"] = fmt.Sprintf(`{"aud":{"token":%q,"expirationTimestamp":"2130-01-02T03:04:05Z"}}`, s.canaries[1])
	return req
}

// fails sends the request, which must fail with the code and the words, show no
// secret, and leave everything as it was.
func (s *siege) fails(req *csi.NodePublishVolumeRequest, want codes.Code, words string) {
	s.t.Helper()
	err := s.send(req)
	switch {
	case status.Code(err) != want, !strings.Contains(fmt.Sprint(err), words):
		s.t.Errorf("publish = %.600v, want %v and %q", err, want, words)
	case len(err.Error()) > longest:
		s.t.Errorf("the error has %d bytes: %.300v", len(err.Error()), err)
	case strings.ContainsAny(err.Error(), "\x00\x1b\r\u202e"):
		s.t.Errorf("the error has control characters: %.300q", err)
	case holdsAny(err.Error(), s.canaries):
		s.t.Errorf("the error shows a secret: %v", err)
	}
	s.nothingIsLeft(fmt.Sprint("victim-", s.tried))
	s.peace()
}

// peace looks at what is on the disk, and whether the neighbour is served.
func (s *siege) peace() {
	s.t.Helper()
	s.neighbourIsServed()
	if diff := cmp.Diff(s.entries, s.everything()); diff != "" {
		s.t.Errorf("the rig's folder has changed (-before +after):\n%s", diff)
	}
}

// nobodyWasTold searches what was logged and what is stored.
func (s *siege) nobodyWasTold() {
	s.t.Helper()
	s.search(s.canaries)
	s.stop()
	klog.Flush()
	if holdsAny(s.logs.String(), s.canaries) {
		s.t.Error("a secret is in the log")
	}
}

// gives returns an answer of one version, and these files.
func gives(files ...*v1alpha1.File) answer {
	return replies(&v1alpha1.MountResponse{ObjectVersion: []*v1alpha1.ObjectVersion{{Id: "o", Version: "1"}}, Files: files})
}

func replies(reply *v1alpha1.MountResponse) answer {
	return func(context.Context, *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) { return reply, nil }
}

func file(path string, mode int32) *v1alpha1.File {
	return &v1alpha1.File{Path: path, Mode: mode, Contents: []byte("x")}
}

// many returns as many files, with the shortest names.
func many(n int) (files []*v1alpha1.File) {
	for i := range n {
		files = append(files, &v1alpha1.File{Path: fmt.Sprintf("%x", i)})
	}
	return files
}

// millions answers with a million files, which are as short as files can be.
func millions() answer {
	reply := &v1alpha1.MountResponse{}
	if one, err := proto.Marshal(&v1alpha1.MountResponse{Files: many(1)}); err == nil {
		reply.ProtoReflect().SetUnknown(bytes.Repeat(one, 1_000_000)) // the same on the wire, and fast
	}
	return replies(reply)
}

// echoes answers with an error that quotes the whole request.
func echoes(_ context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	return nil, status.Errorf(codes.PermissionDenied, "login failed\x1b[31m\r\n%v %s %s", req, req.Attributes, req.Secrets)
}

// heads answers with so many bytes of headers.
func heads(size int) answer {
	return func(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		if err := grpc.SetHeader(ctx, metadata.Pairs("keymount-lease-id-bin", strings.Repeat("x", size))); err != nil {
			return nil, err
		}
		return holds("x")(ctx, req)
	}
}

func TestAHostileProviderFailsItsOwnVolumesOnly(t *testing.T) {
	var f *foreign
	s := besiege(t, func(s *siege) {
		s.declare("classes", "foreign", nil)
		f = s.serveForeign("providers", nil)
	})
	released := make(chan bool)
	for _, c := range []struct {
		name   string
		answer answer
		code   codes.Code
		words  string
	}{
		{"a path that climbs", gives(file("a", 0), file("../../outside", 0)), codes.InvalidArgument, `"../../outside"`},
		{"an absolute path", gives(file(s.path("outside"), 0)), codes.InvalidArgument, "the path is absolute"},
		{"the path of the layout", gives(file("..data/x", 0)), codes.InvalidArgument, "starts with"},
		{"an empty path", gives(file("", 0)), codes.InvalidArgument, "the path is empty"},
		{"a path twice", gives(file("a", 0), file("a", 0)), codes.InvalidArgument, "it is there twice"},
		{"a path with control characters", gives(file("a\x1b[2J\n", 0)), codes.InvalidArgument, "a control character"},
		{"a path that is no text", gives(file("a\xff", 0)), codes.Internal, "UTF-8"},
		{"a path of many elements", gives(file(strings.Repeat("a/", 40)+"a", 0)), codes.InvalidArgument, "more than 32 elements"},
		{"a mode with setuid", gives(file("a", 0o4755)), codes.InvalidArgument, "the mode 2541"},
		{"a negative mode", gives(file("a", -1)), codes.InvalidArgument, "the mode -1"},
		{"more files than a volume holds", gives(many(20_000)...), codes.InvalidArgument, "it has 20000 files: want at most 8192"},
		{"a million files", millions(), codes.ResourceExhausted, "--max-call-recv-msg-size"},
		{"a file larger than the volume", gives(&v1alpha1.File{Path: "a", Contents: make([]byte, 3<<20)}), codes.Internal, "raise --tmpfs-size"},
		{"a file larger than a message", gives(&v1alpha1.File{Path: "a", Contents: make([]byte, 8<<20)}), codes.ResourceExhausted, "--max-call-recv-msg-size"},
		{"no versions", replies(&v1alpha1.MountResponse{Files: many(1)}), codes.InvalidArgument, "missing object versions"},
		{"a version without a name", replies(&v1alpha1.MountResponse{ObjectVersion: []*v1alpha1.ObjectVersion{{Version: "1"}}}), codes.InvalidArgument, "without an object ID"},
		{"a huge version", replies(&v1alpha1.MountResponse{ObjectVersion: []*v1alpha1.ObjectVersion{{Id: "o", Version: strings.Repeat("x", 1<<20)}}}), codes.InvalidArgument, "want at most"},
		{"nothing, and it wrote nothing", gives(), codes.Internal, "has written none"},
		{"an error that quotes the request", echoes, codes.PermissionDenied, "login failed"},
		{"an error of 100 KB", refuses(codes.DataLoss, strings.Repeat("x", 100<<10)), codes.DataLoss, "more bytes"},
		{"an error of 2 MB", refuses(codes.DataLoss, strings.Repeat("x", 2<<20)), codes.Internal, "provider"},
		{"an error code that is none", refuses(4711, ""), codes.Code(4711), "provider"},
		{"a lease of 100 KB", heads(100 << 10), codes.InvalidArgument, "at most 4096"},
		{"headers of 2 MB", heads(2 << 20), codes.Internal, "provider"},
		{"an answer that never comes", hangs, codes.Unavailable, "did not answer within 1s"},
		{"an answer that comes too late", waits(released), codes.Unavailable, "did not answer within 1s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			f.answers(c.answer)
			s.fails(s.attack(), c.code, c.words)
		})
	}
	s.t = t
	close(released)
	s.peace()
	s.nobodyWasTold()
}

// refuses answers with that error.
func refuses(code codes.Code, text string) answer {
	return func(context.Context, *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		return nil, status.Error(code, text)
	}
}

// waits answers when it is released, whoever still waits for it.
func waits(released <-chan bool) answer {
	return func(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		<-released
		return holds("late")(ctx, req)
	}
}

// hangs answers with nothing, for as long as it may.
func hangs(ctx context.Context, _ *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// A fiend takes a connection that was meant for a provider.
type fiend func(conn net.Conn)

// listens lets the fiend have all connections to a socket until the test ends.
func (s *siege) listens(socket string, f fiend) {
	s.t.Helper()
	lis, err := net.Listen("unix", socket)
	if err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	var busy sync.WaitGroup
	busy.Go(func() {
		for {
			conn, err := lis.Accept()
			if err != nil {
				return
			}
			busy.Go(func() {
				<-done
				_ = conn.Close() // the driver may keep it
			})
			busy.Go(func() { f(conn) })
		}
	})
	s.t.Cleanup(func() {
		_ = lis.Close()
		close(done)
		busy.Wait()
	})
}

// floods sends one thing again and again.
func floods(what string) fiend {
	return func(conn net.Conn) {
		for {
			if _, err := io.WriteString(conn, what); err != nil {
				return
			}
		}
	}
}

// preface is how an HTTP/2 server begins: with settings, all of them default.
const preface = "\x00\x00\x00\x04\x00\x00\x00\x00\x00"

func TestAHostileListenerFailsItsOwnVolumesOnly(t *testing.T) {
	s := besiege(t, func(*siege) {})
	for name, c := range map[string]struct {
		fiend fiend
		words string
	}{
		"silent":   {func(net.Conn) {}, "did not answer within 1s"},
		"rude":     {func(conn net.Conn) { _ = conn.Close() }, "did not answer within 1s"},
		"garbage":  {floods("\xde\xad\xbe\xef\x00garbage"), "did not answer within 1s"},
		"http1":    {floods("HTTP/1.1 200 OK\r\n\r\n"), "did not answer within 1s"},
		"settings": {floods(preface), "did not answer within 1s"},
		// A frame of a stream that nobody has opened, of 16 MiB less one byte.
		"frames": {floods(preface + "\xff\xff\xff\x00\x00\x00\x00\x00\x01" + strings.Repeat("x", 1<<16)), "provider"},
		// A ping, which wants an answer, and nobody to read that.
		"pings": {floods(preface + strings.Repeat("\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678", 1000)), "did not answer within 1s"},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			socket := filepath.Join(s.path("providers"), name+".sock")
			s.listens(socket, c.fiend)
			s.declare("classes", name, nil)
			s.entries = s.everything()
			s.fails(s.attack(), codes.Unavailable, c.words)
		})
	}
	s.t = t
	s.entries = s.everything()
	s.nobodyWasTold()
}

func TestWhatIsNoSocketIsNoProvider(t *testing.T) {
	s := besiege(t, func(*siege) {})
	elsewhere := s.path("elsewhere")
	for name, put := range map[string]func(path string) error{
		"a file":            func(path string) error { return os.WriteFile(path, []byte("x"), 0o666) },
		"a folder":          func(path string) error { return os.Mkdir(path, 0o777) },
		"a pipe":            func(path string) error { return unix.Mkfifo(path, 0o666) },
		"a link to nothing": func(path string) error { return os.Symlink("nothing", path) },
		"a link to itself":  func(path string) error { return os.Symlink(path, path) },
		"a link to a file": func(path string) error {
			return errors.Join(os.WriteFile(elsewhere, nil, 0o666), os.Symlink(elsewhere, path))
		},
		"a link to /dev/zero":  func(path string) error { return os.Symlink("/dev/zero", path) },
		"a name that is taken": func(path string) error { return os.Symlink(s.path("csi.sock")+"/x", path) },
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			path := filepath.Join(s.path("providers"), "thing.sock")
			if err := put(path); err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(path)
			s.declare("classes", "thing", nil)
			s.entries = s.everything()
			s.fails(s.attack(), codes.Unavailable, "no socket thing.sock in ["+s.path("providers")+"]")
		})
	}
	s.t = t
	s.nobodyWasTold()
}

// What kubelet passes on of a pod, and what it says itself, is on one socket
// that only root reaches; yet nothing of it is believed to be small or sane.
func TestHostileAttributesFailTheirOwnVolumeOnly(t *testing.T) {
	s := besiege(t, func(s *siege) {
		if err := errors.Join(os.MkdirAll(s.path("outside"), 0o755), os.MkdirAll(s.path("pods"), 0o755), os.Symlink("../outside", s.path("pods/link"))); err != nil {
			s.t.Fatal(err)
		}
	})
	const tokens, pod = "csi.storage.k8s.io/serviceAccount.tokens", "csi.storage.k8s.io/pod."
	deep := strings.Repeat(`{"a":`, 20_000) + "1" + strings.Repeat("}", 20_000)
	for _, c := range []struct {
		name   string
		change func(*csi.NodePublishVolumeRequest)
		code   codes.Code
		words  string
	}{
		{"a volume ID of 64 KiB", func(r *csi.NodePublishVolumeRequest) { r.VolumeId = strings.Repeat("v", 64<<10) }, codes.InvalidArgument, "volume ID is longer than"},
		{"a target outside", func(r *csi.NodePublishVolumeRequest) { r.TargetPath = s.path("outside/v") }, codes.InvalidArgument, "is not below"},
		{"a target that climbs", func(r *csi.NodePublishVolumeRequest) { r.TargetPath = s.path("pods") + "/../outside" }, codes.InvalidArgument, "must be absolute"},
		{"a target beside the folder", func(r *csi.NodePublishVolumeRequest) { r.TargetPath = s.path("pods-outside/v") }, codes.InvalidArgument, "is not below"},
		{"a target that is the folder", func(r *csi.NodePublishVolumeRequest) { r.TargetPath = s.path("pods") + "/." }, codes.InvalidArgument, "is not below"},
		{"a target with NUL", func(r *csi.NodePublishVolumeRequest) { r.TargetPath += "\x00" }, codes.InvalidArgument, "must be absolute"},
		{"a target behind a link", func(r *csi.NodePublishVolumeRequest) { r.TargetPath = s.path("pods/link/v") }, codes.InvalidArgument, "leads through a symbolic link"},
		{"the name of a class of 64 KiB", func(r *csi.NodePublishVolumeRequest) {
			r.VolumeContext["secretProviderClass"] = strings.Repeat("c", 64<<10)
		}, codes.InvalidArgument, "is longer than a name can be"},
		{"a class of another namespace", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["secretProviderClass"] = "../other/c" }, codes.NotFound, "class ns/../other/c is not in"},
		{"another namespace", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[pod+"namespace"] = "other" }, codes.NotFound, "class other/c is not in"},
		{"a namespace that is a path", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[pod+"namespace"] = "ns/../ns" }, codes.NotFound, "is not in"},
		{"tokens of many levels", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[tokens] = deep }, codes.InvalidArgument, "is not a JSON object of tokens"},
		{"tokens that are cut off", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[tokens] = r.VolumeContext[tokens][:60] }, codes.InvalidArgument, "is not a JSON object of tokens"},
		{"attributes of more than a message", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["a"] = strings.Repeat("a", 5<<20) }, codes.ResourceExhausted, "larger than max"},
		{"attributes of more than a record", func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["a"] = strings.Repeat("\x01", 1<<20) }, codes.Internal, "the limit is"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s.t = t
			req := s.attack()
			c.change(req)
			s.fails(req, c.code, c.words)
		})
	}
	s.t = t
	s.nobodyWasTold()
}

// What is odd and does no harm is served like everything else.
func TestOddAttributesAreServed(t *testing.T) {
	s := besiege(t, func(*siege) {})
	const tokens = "csi.storage.k8s.io/serviceAccount.tokens"
	for name, change := range map[string]func(*csi.NodePublishVolumeRequest){
		"an ID that climbs":          func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "../../../outside" },
		"an ID with control letters": func(r *csi.NodePublishVolumeRequest) { r.VolumeId = "v\x00\n\x1b[2J" },
		"ten thousand attributes":    func(r *csi.NodePublishVolumeRequest) { maps.Copy(r.VolumeContext, numbered(10_000)) },
		"an attribute of 64 KiB":     func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["a"] = strings.Repeat("a", 64<<10) },
		"a token twice": func(r *csi.NodePublishVolumeRequest) {
			r.VolumeContext[tokens] = `{"a":{"token":"x"},"a":{"token":"y","TOKEN":"z"}}`
		},
		"an audience with a path":     func(r *csi.NodePublishVolumeRequest) { r.VolumeContext[tokens] = `{"../../x\u0000":{"token":"x"}}` },
		"a pod with a path for names": func(r *csi.NodePublishVolumeRequest) { r.VolumeContext["csi.storage.k8s.io/pod.name"] = "../../x\n" },
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			req := s.attack()
			change(req)
			if err := s.send(req); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(filepath.Join(req.TargetPath, "password")); err != nil || string(got) != "first" {
				t.Errorf("the volume shows %q, %v", got, err)
			}
			if _, err := s.node.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{VolumeId: req.VolumeId, TargetPath: req.TargetPath}); err != nil {
				t.Error(err)
			}
			s.nothingIsLeft(fmt.Sprint("victim-", s.tried))
			s.peace()
		})
	}
	s.t = t
	s.nobodyWasTold()
}

func numbered(n int) map[string]string {
	all := make(map[string]string, n)
	for i := range n {
		all[fmt.Sprint("attribute-", i)] = "x"
	}
	return all
}
