package serve_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/keymount/keymount/pkg/serve"
)

func listen(t *testing.T, endpoint string, opts *serve.ListenOptions) net.Listener {
	t.Helper()
	lis, err := serve.Listen(endpoint, opts)
	if err != nil {
		t.Fatalf("Listen(%q): %v", endpoint, err)
	}
	t.Cleanup(func() { _ = lis.Close() })
	return lis
}

func TestListenTakesTheFormsOfAnEndpoint(t *testing.T) {
	dir := shortDir(t)
	t.Chdir(dir)
	for _, c := range []struct{ name, endpoint, path string }{
		{"absolute path with slashes", "unix://" + dir + "/a.sock", dir + "/a.sock"},
		{"absolute path without slashes", "unix:" + dir + "/b.sock", dir + "/b.sock"},
		{"relative path as written", "unix:c.sock", "c.sock"},
		{"two slashes mean an absolute path", "unix:/" + dir + "/d.sock", dir + "/d.sock"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lis := listen(t, c.endpoint, nil)
			if got := lis.Addr().String(); got != c.path {
				t.Errorf("Listen(%q) listens on %q, want %q", c.endpoint, got, c.path)
			}
			if err := lis.Close(); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Lstat(c.path); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("after Close the socket file is there: %v", err)
			}
		})
	}
	if got := listen(t, "tcp://127.0.0.1:0", nil).Addr().Network(); got != "tcp" {
		t.Errorf("network of tcp://127.0.0.1:0 = %q, want tcp", got)
	}
}

func TestListenRefusesWithAHint(t *testing.T) {
	for _, c := range []struct{ name, endpoint, hint string }{
		{"empty", "", "want unix:///path/of.sock or tcp://host:port"},
		{"bare path", "/csi/csi.sock", "want unix:///path/of.sock"},
		{"unknown scheme", "http://localhost:80", "want unix:///path/of.sock"},
		{"upper case", "UNIX:///csi/csi.sock", "want unix:///path/of.sock"},
		{"no path", "unix://", "path of the socket is missing"},
		{"directory", "unix:///csi/", "path of the socket is missing"},
		{"abstract socket", "unix:@csi", "abstract sockets have no permissions"},
		{"NUL in the path", "unix:///a\x00b", "NUL"},
		{"tcp without port", "tcp://localhost", "want tcp://host:port"},
		{"tcp with an empty port", "tcp://localhost:", "want tcp://host:port"},
		{"tcp without slashes", "tcp:localhost:80", "want tcp://host:port"},
		{"108 bytes", "unix:///" + strings.Repeat("a", 107), "has 108 bytes, the kernel takes at most 107"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := serve.Listen(c.endpoint, nil)
			if !errors.Is(err, serve.ErrEndpoint) || !strings.Contains(err.Error(), c.hint) {
				t.Errorf("Listen(%q): %v, want ErrEndpoint with %q", c.endpoint, err, c.hint)
			}
		})
	}
}

func TestListenTakesAPathOf107Bytes(t *testing.T) {
	dir := shortDir(t)
	path := dir + "/" + strings.Repeat("a", 107-len(dir)-1)
	listen(t, "unix://"+path, nil)
}

func TestListenSetsModesWhateverTheUmask(t *testing.T) {
	for _, c := range []struct {
		name        string
		umask       int
		opts        *serve.ListenOptions
		socket, dir fs.FileMode
	}{
		{"private by default", 0, nil, 0o600, 0o750},
		{"as the options say", 0, &serve.ListenOptions{Mode: 0o666, Dir: 0o755}, 0o666, 0o755},
		{"a strict umask takes nothing from the socket", 0o077, &serve.ListenOptions{Mode: 0o660}, 0o660, 0o700},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := filepath.Join(shortDir(t), "sub")
			old := syscall.Umask(c.umask)
			defer syscall.Umask(old)
			listen(t, "unix://"+dir+"/s.sock", c.opts)
			for path, want := range map[string]fs.FileMode{dir: fs.ModeDir | c.dir, dir + "/s.sock": fs.ModeSocket | c.socket} {
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				if info.Mode() != want {
					t.Errorf("%s has mode %v, want %v", path, info.Mode(), want)
				}
			}
		})
	}
}

func TestListenReplacesASocketThatNobodyAnswersOn(t *testing.T) {
	endpoint, path := socketIn(t)
	stale, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	stale.SetUnlinkOnClose(false)
	if err := stale.Close(); err != nil {
		t.Fatal(err)
	}
	listen(t, endpoint, nil)
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("dial the new socket: %v", err)
	}
	_ = conn.Close()
}

func TestListenLeavesALiveSocketAlone(t *testing.T) {
	endpoint, path := socketIn(t)
	listen(t, endpoint, nil)
	_, err := serve.Listen(endpoint, nil)
	if want := "another process listens on " + path; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("Listen: %v, want %q", err, want)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatalf("the first listener is gone: %v", err)
	}
	_ = conn.Close()
}

func TestListenNeverRemovesWhatIsNoSocket(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(path string) error
	}{
		{"file", func(path string) error { return os.WriteFile(path, []byte("x"), 0o600) }},
		{"directory", func(path string) error { return os.Mkdir(path, 0o700) }},
		{"symbolic link", func(path string) error { return os.Symlink("elsewhere", path) }},
		{"fifo", func(path string) error { return syscall.Mkfifo(path, 0o600) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			endpoint, path := socketIn(t)
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			if _, err := serve.Listen(endpoint, nil); err == nil || !strings.Contains(err.Error(), "is no socket") {
				t.Errorf("Listen: %v, want an error that says so", err)
			}
			if _, err := os.Lstat(path); err != nil {
				t.Errorf("it was removed: %v", err)
			}
		})
	}
}
