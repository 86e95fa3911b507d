package plugin_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
)

// dialSocket connects to the provider's socket without a word.
func dialSocket(t *testing.T, lis net.Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", lis.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// speak says something that is no HTTP/2, and reads until it is hung up on.
func speak(t *testing.T, conn net.Conn, what string) {
	t.Helper()
	_, _ = io.WriteString(conn, what) // it may hang up before the end
	heard := make(chan bool)
	go func() {
		_, _ = io.Copy(io.Discard, conn)
		close(heard)
	}()
	receive(t, heard)
}

// Whatever somebody says on a provider's socket, the driver is served.
func TestAHostileClientOfAProviderStopsNobodyElse(t *testing.T) {
	const hello = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	dir := shortDir(t)
	lis := listen(t, dir)
	serve(t, lis, says("content"), nil)
	honest := lookup(t, newDir(t, nil, dir))
	for name, attack := range map[string]func(t *testing.T){
		"garbage":                   func(t *testing.T) { speak(t, dialSocket(t, lis), strings.Repeat("\xde\xad\xbe\xef\x00", 1<<16)) },
		"HTTP/1.1":                  func(t *testing.T) { speak(t, dialSocket(t, lis), "GET / HTTP/1.1\r\nHost: x\r\n\r\n") },
		"a frame that is too large": func(t *testing.T) { speak(t, dialSocket(t, lis), hello+"\xff\xff\xff\x00\x00\x00\x00\x00\x01") },
		"headers that are none": func(t *testing.T) {
			speak(t, dialSocket(t, lis), hello+"\x00\x00\x04\x01\x04\x00\x00\x00\x01\xff\xff\xff\xff")
		},
		"an end in the middle of a frame": func(t *testing.T) { _, _ = io.WriteString(dialSocket(t, lis), hello+"\x00\x40\x00\x00\x00") },
		"a thousand idle connections": func(t *testing.T) {
			for range 1000 {
				dialSocket(t, lis)
			}
		},
		"a request above the limit":  func(t *testing.T) { asks(t, lis, strings.Repeat("x", 5<<20), codes.ResourceExhausted) },
		"a request of many levels":   func(t *testing.T) { asks(t, lis, strings.Repeat(`{"a":`, 500_000), codes.InvalidArgument) },
		"attributes that are a list": func(t *testing.T) { asks(t, lis, "["+strings.Repeat("0,", 1<<20)+"0]", codes.InvalidArgument) },
		"unknown methods": func(t *testing.T) {
			for _, method := range []string{"/v1alpha1.CSIDriverProvider/Shutdown", "/x/y", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"} {
				if err := stranger(t, lis).Invoke(t.Context(), method, &emptypb.Empty{}, &emptypb.Empty{}); status.Code(err) != codes.Unimplemented {
					t.Errorf("%s = %v, want Unimplemented", method, err)
				}
			}
		},
		"metadata of 20 MB": func(t *testing.T) {
			ctx := metadata.AppendToOutgoingContext(t.Context(), "keymount-facts-bin", strings.Repeat("x", 20<<20))
			if _, err := v1alpha1.NewCSIDriverProviderClient(stranger(t, lis)).Mount(ctx, upstream()); err == nil {
				t.Error("it is served")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			attack(t)
			if got := content(t, honest); got != "content" {
				t.Errorf("content = %q", got)
			}
		})
	}
}

func stranger(t *testing.T, lis net.Listener) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("unix:"+lis.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// asks makes a Mount call with these attributes, which must be refused shortly.
func asks(t *testing.T, lis net.Listener, attributes string, want codes.Code) {
	t.Helper()
	message := upstream()
	message.Attributes = attributes
	_, err := v1alpha1.NewCSIDriverProviderClient(stranger(t, lis)).Mount(t.Context(), message)
	if status.Code(err) != want || len(err.Error()) > 1500 {
		t.Errorf("Mount = %.300v, want %v", err, want)
	}
}

// strangerVariable makes the test program a client of the socket that it names.
const strangerVariable = "PLUGIN_TEST_SOCKET"

// TestAnotherUsersProcessIsHungUpOn is two tests: without the variable it runs
// itself as another user, with it it is the other user's process.
func TestAnotherUsersProcessIsHungUpOn(t *testing.T) {
	if path := os.Getenv(strangerVariable); path != "" {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
		if got, _ := io.ReadAll(conn); len(got) > 0 {
			t.Errorf("the provider said %q to user %d", got, os.Getuid())
		}
		return
	}
	const other = 65531
	dir := shortDir(t)
	lis := listen(t, dir)
	for _, path := range []string{dir, lis.Addr().String()} { // the file system lets everybody in
		if err := os.Chmod(path, 0o777); err != nil {
			t.Fatal(err)
		}
	}
	serve(t, lis, fetch(func(context.Context, *provider.Request) (*provider.Bundle, error) {
		t.Error("a stranger is served")
		return nil, provider.ErrDenied
	}), &plugin.ServeOptions{AllowedUIDs: []uint32{other + 1}})
	self, err := os.Open("/proc/self/exe") // whose folder another user may not enter
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	cmd := exec.CommandContext(t.Context(), "/proc/self/fd/3", "-test.run=^TestAnotherUsersProcessIsHungUpOn$", "-test.v")
	cmd.ExtraFiles, cmd.Dir = []*os.File{self}, "/"
	cmd.Env = append(os.Environ(), strangerVariable+"="+lis.Addr().String(), "GOCOVERDIR=/nowhere")
	if os.Getuid() == 0 { // an ordinary user is a stranger as it is
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: other, Gid: other}}
	}
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("--- PASS: TestAnotherUsersProcessIsHungUpOn")) {
		t.Errorf("the stranger: %v\n%s", err, out)
	}
}

// A provider that says much is not kept in memory.
func TestAReplyOfHardlyAnyBytesEachIsNotUnfolded(t *testing.T) {
	reply := &v1alpha1.MountResponse{ObjectVersion: versions()}
	for range 200_000 { // 2 MB on the wire
		reply.Files = append(reply.Files, &v1alpha1.File{Path: "abcd"})
	}
	dir := shortDir(t)
	serveForeign(t, listen(t, dir), replies(reply))
	p := lookup(t, newDir(t, nil, dir))
	for range 3 {
		_, err := p.Fetch(t.Context(), fullRequest())
		if want := "it has 200000 files: want at most 8192"; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Fetch = %v, want %s", err, want)
		}
	}
}
