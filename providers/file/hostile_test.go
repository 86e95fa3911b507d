package file

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keymount/keymount/pkg/provider"
)

// device puts a device there, or, for who may make none, a link to one.
func device(path string) error {
	err := syscall.Mknod(path, syscall.S_IFCHR|0o666, 1<<8|5) // that of /dev/zero
	if errors.Is(err, syscall.EPERM) {
		return os.Symlink("/dev/zero", path)
	}
	return err
}

// sparse makes a file of so many bytes that takes no room.
func sparse(path string, size int64) error {
	return errors.Join(os.WriteFile(path, nil, 0o644), os.Truncate(path, size))
}

// socket puts a socket there that nobody listens to.
func socket(path string) error {
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	lis.SetUnlinkOnClose(false)
	return lis.Close()
}

// deep makes so many folders, one in the other, by steps: the path of the
// last is longer than the system takes.
func deep(path string, n int) error {
	root, err := os.OpenRoot(filepath.Dir(path))
	for range n {
		if err != nil {
			return err
		}
		var next *os.Root
		if err = root.Mkdir("deep", 0o755); err == nil {
			next, err = root.OpenRoot("deep")
		}
		err = errors.Join(err, root.Close())
		root = next
	}
	return errors.Join(err, root.Close())
}

// loops makes folders that lead to each other.
func loops(path string) error {
	return errors.Join(os.Mkdir(path, 0o755), os.Symlink("../b", filepath.Join(path, "to-b")),
		os.Mkdir(filepath.Join(filepath.Dir(path), "b"), 0o755), os.Symlink("../loops", filepath.Join(filepath.Dir(path), "b", "to-a")))
}

// Whoever may write into the folder of one namespace reads nothing else with
// it, and holds nobody up.
func TestAHostileStoreIsRefused(t *testing.T) {
	for _, c := range []struct {
		name    string // of what is put there
		put     func(path string) error
		objects string
		want    error
		text    string
	}{
		{"link", func(p string) error { return os.Symlink("../../outside", p) }, "[{path: link}]", provider.ErrDenied, "leads out"},
		{"link", func(p string) error { return os.Symlink("../blog/secret", p) }, "[{path: link}]", provider.ErrDenied, "leads out"},
		{"link", func(p string) error { return os.Symlink("/etc/passwd", p) }, "[{path: link}]", provider.ErrDenied, "leads out"},
		{"link", func(p string) error { return os.Symlink("/proc/self/environ", p) }, "[{path: link}]", provider.ErrDenied, "leads out"},
		{"links", func(p string) error { return os.Symlink("/", p) }, "[{path: links/}]", provider.ErrDenied, "leads out"},
		{"links", func(p string) error { return os.Symlink("links", p) }, "[{path: links/}]", provider.ErrInvalid, "too many levels"},
		{"loops", loops, "[{path: loops/}]", provider.ErrInvalid, "symbolic link from a folder to one above"},
		{"pipe", func(p string) error { return syscall.Mkfifo(p, 0o666) }, "[{path: pipe}]", provider.ErrInvalid, "is not a regular file"},
		{"pipe.age", func(p string) error { return syscall.Mkfifo(p, 0o666) }, "[{path: pipe}]", provider.ErrInvalid, "is not a regular file"},
		{"socket", socket, "[{path: socket}]", provider.ErrInvalid, "is not a regular file"},
		{"device", device, "[{path: device}]", nil, "device"},
		{"sparse", func(p string) error { return sparse(p, 10<<30) }, "[{path: sparse}]", provider.ErrInvalid, "is larger than 4194304 bytes"},
		{"sparse.age", func(p string) error { return sparse(p, 10<<30) }, "[{path: sparse}]", provider.ErrInvalid, "is larger than 4194304 bytes"},
		{"zeros.json", func(p string) error { return sparse(p, 4<<20) }, "[{path: zeros.json, key: k}]", provider.ErrInvalid, "is not valid JSON"},
		{"deep", func(p string) error { return deep(p, 3000) }, "[{path: deep/}]", provider.ErrInvalid, "its path has more than 32 elements"},
		{"wide", wide, "[{path: wide/}]", provider.ErrInvalid, "has more than 4096 files and folders"},
		{"nested.json", func(p string) error { return os.WriteFile(p, []byte(strings.Repeat(`[`, 1<<20)), 0o644) }, "[{path: nested.json, key: k}]", provider.ErrInvalid, "is not valid JSON"},
		{"nested.yaml", func(p string) error { return os.WriteFile(p, []byte(strings.Repeat(`[`, 1<<20)), 0o644) }, "[{path: nested.yaml, key: k}]", provider.ErrInvalid, "not valid YAML"},
		{"bomb.yaml", func(p string) error { return os.WriteFile(p, []byte(bomb()), 0o644) }, "[{path: bomb.yaml, key: z}]", provider.ErrInvalid, "not valid YAML"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStore(t)
			t.Chdir(s.root) // a socket's path is short
			value := s.canary()
			s.putRoot(t, "blog/secret", s.canary())
			s.put(t, "good", value)
			if err := c.put(filepath.Join("shop", c.name)); err != nil {
				t.Fatal(err)
			}
			p := s.provider(t, Options{})
			_, err := p.Fetch(t.Context(), request(c.objects))
			if want := c.want; want != nil {
				s.clean(t, err, want)
			} else { // a link leads out, a device is none of the files
				s.clean(t, err, cause(err))
			}
			if err == nil || !strings.Contains(err.Error(), c.text) || len(err.Error()) > 5000 {
				t.Errorf("Fetch = %v, want %q", err, c.text)
			}
			if got := files(fetch(t, p, "[{path: good}]")); got["good"].Data != value {
				t.Errorf("the file beside it is %v", got)
			}
		})
	}
}

// cause is the sentinel of what an ordinary user or root has put there.
func cause(err error) error {
	if errors.Is(err, provider.ErrDenied) {
		return provider.ErrDenied
	}
	return provider.ErrInvalid
}

func wide(path string) error {
	err := os.Mkdir(path, 0o755)
	for i := range 4200 {
		err = errors.Join(err, os.WriteFile(filepath.Join(path, fmt.Sprint(i)), nil, 0o644))
	}
	return err
}

// bomb is a document of aliases that stands for a billion values.
func bomb() string {
	var text strings.Builder
	text.WriteString("a: &a [x, x, x, x, x, x, x, x, x, x]\n")
	for c := 'b'; c <= 'i'; c++ {
		fmt.Fprintf(&text, "%c: &%c [%s]\n", c, c, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*%c, ", c-1), 10), ", "))
	}
	return text.String() + "z: *i\n"
}

// A file that changes all the time is served whole or not at all.
func TestAFileThatNeverStopsChangingIsServedWholeOrNotAtAll(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(s.root, "shop/log")
	s.put(t, "log", "")
	s.put(t, "good", s.canary())
	p := s.provider(t, Options{MaxFileSize: 1 << 20})
	stop := make(chan bool)
	var writer sync.WaitGroup
	writer.Go(func() { grow(t, path, stop) })
	for range 20 {
		bundle, err := p.Fetch(t.Context(), request("[{path: log}, {path: good}]"))
		if err != nil {
			s.clean(t, err, provider.ErrUnavailable)
			continue
		}
		data := files(bundle)["log"].Data
		if strings.Trim(data, "x") != "" || len(data)%4096 != 0 {
			t.Errorf("a file of %d bytes is half of one", len(data))
		}
	}
	close(stop)
	writer.Wait()
}

// grow makes the file longer, and short again, until stop.
func grow(t *testing.T, path string, stop <-chan bool) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for i := 0; ; i++ {
		select {
		case <-stop:
			return
		default:
		}
		if i%100 == 0 {
			err = f.Truncate(0)
		} else {
			_, err = io.WriteString(f, strings.Repeat("x", 4096))
		}
		if err != nil {
			t.Error(err)
		}
	}
}
