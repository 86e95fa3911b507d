package registration_test

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/testing/protocmp"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/keymount/keymount/pkg/kube/registration"
	"github.com/keymount/keymount/pkg/serve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// patience bounds waits that end at once unless something is broken.
	patience = 20 * time.Second
	driver   = "secrets-store.csi.k8s.io"
	endpoint = "/var/lib/kubelet/plugins/csi-secrets-store/csi.sock"
)

// byEvents are options with which only the kernel tells that the socket is gone.
var byEvents = &registration.Options{MinWait: 10 * time.Millisecond, MaxWait: 40 * time.Millisecond, Poll: time.Hour}

// registry returns a folder whose path leaves room for a socket's name.
func registry(t *testing.T) string {
	t.Helper()
	top, err := os.MkdirTemp("", "k")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	return filepath.Join(top, "plugins_registry")
}

func socketIn(dir string) string { return filepath.Join(dir, driver+"-reg.sock") }

// A running Server, and what it logs.
type running struct {
	*registration.Server
	log  *logBuffer
	stop func()
}

// start runs a Server until stop is called, or the test ends.
func start(t *testing.T, dir string, opts *registration.Options) *running {
	t.Helper()
	s, err := registration.New(registration.Config{Dir: dir, Driver: driver, Endpoint: endpoint}, opts)
	if err != nil {
		t.Fatal(err)
	}
	log := captureLog(t)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := receive(t, done); err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return &running{s, log, stop}
}

// receive returns the next value of c.
func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatal("nothing happened")
		panic("unreachable")
	}
}

// eventually waits until the driver is not registered for that reason.
func eventually(t *testing.T, s *running, why string) {
	t.Helper()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for range int(patience / time.Millisecond) {
		if err := s.Registered(t.Context()); err != nil && strings.Contains(err.Error(), why) {
			return
		}
		<-ticker.C
	}
	t.Fatalf("Registered = %v, want %q", s.Registered(t.Context()), why)
}

func mustBeRegistered(t *testing.T, s *running) {
	t.Helper()
	if err := s.Registered(t.Context()); err != nil {
		t.Errorf("Registered = %v, want nil", err)
	}
}

func mustNotBeRegistered(t *testing.T, s *running, why string) {
	t.Helper()
	if err := s.Registered(t.Context()); err == nil || !strings.Contains(err.Error(), why) {
		t.Errorf("Registered = %v, want %q", err, why)
	}
}

// live is the file of a socket that somebody listens on. While that goes on
// no other file is the same.
func live(t *testing.T, path string) fs.FileInfo {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestKubeletIsToldWhereTheDriverIs(t *testing.T) {
	dir := registry(t)
	k, _ := startKubelet(t, dir, takesAll)
	s := start(t, dir, byEvents)
	want := &registerapi.PluginInfo{Type: "CSIPlugin", Name: driver, Endpoint: endpoint, SupportedVersions: []string{"1.0.0"}}
	if diff := cmp.Diff(want, receive(t, k.asked), protocmp.Transform()); diff != "" {
		t.Errorf("what kubelet is told (-want +got):\n%s", diff)
	}
	mustBeRegistered(t, s)
	if mode := live(t, socketIn(dir)).Mode(); mode != fs.ModeSocket|0o600 {
		t.Errorf("the socket has the mode %v, want 0600", mode)
	}
}

func TestADriverThatIsThereBeforeKubeletIsFound(t *testing.T) {
	dir := registry(t)
	s := start(t, dir, byEvents)
	eventually(t, s, "kubelet has not answered at "+socketIn(dir)+" yet")
	k, _ := startKubelet(t, dir, takesAll)
	receive(t, k.asked)
	mustBeRegistered(t, s)
	if lines := s.log.lines("egistered with kubelet"); len(lines) != 1 {
		t.Errorf("the log has %q, want that it is registered and no more", lines)
	}
}

func TestAKubeletThatStartsAnewFindsTheSameSocket(t *testing.T) {
	dir := registry(t)
	s := start(t, dir, byEvents)
	k, stop := startKubelet(t, dir, takesAll)
	receive(t, k.asked)
	before := live(t, socketIn(dir))
	stop()
	k, _ = startKubelet(t, dir, takesAll)
	receive(t, k.asked)
	mustBeRegistered(t, s)
	if !os.SameFile(before, live(t, socketIn(dir))) {
		t.Error("the socket is another one")
	}
	if lines := s.log.lines("egistered with kubelet"); len(lines) != 1 {
		t.Errorf("the log has %q, want one line", lines)
	}
}

func TestAKubeletThatRefusesIsAskedAgain(t *testing.T) {
	dir := registry(t)
	var s *running
	ready := make(chan struct{})
	refusals := 3
	k, _ := startKubelet(t, dir, func(*registerapi.PluginInfo) error {
		<-ready
		if refusals < 3 { // it stays known while kubelet is asked again
			mustNotBeRegistered(t, s, `kubelet refused the driver, and is asked again; its log may say more than "CSINode has no room"`)
		}
		if refusals--; refusals >= 0 {
			return errors.New("CSINode has no room")
		}
		return nil
	})
	s = start(t, dir, byEvents)
	close(ready)
	for range 4 {
		receive(t, k.asked)
	}
	mustBeRegistered(t, s)
	if refused := s.log.lines("CSINode has no room"); len(refused) != 1 || !strings.Contains(refused[0], driver) {
		t.Errorf("three refusals are logged as %q, want one line that names the driver", refused)
	}
	if taken := s.log.lines("Registered with kubelet"); len(taken) != 1 {
		t.Errorf("the end is logged as %q, want one line", taken)
	}
}

func TestWhatKubeletSaysIsCut(t *testing.T) {
	dir := registry(t)
	k, _ := startKubelet(t, dir, func(*registerapi.PluginInfo) error { return errors.New("a\nb" + strings.Repeat("x", 100_000)) })
	s := start(t, dir, &registration.Options{MinWait: time.Hour, MaxWait: time.Hour})
	receive(t, k.asked)
	if err := s.Registered(t.Context()); err == nil || len(err.Error()) > 700 || strings.Contains(err.Error(), "\n") {
		t.Errorf("Registered = %v, want one short line", err)
	}
}

func TestASocketThatIsRemovedIsMadeAnew(t *testing.T) {
	dir := registry(t)
	k, _ := startKubelet(t, dir, takesAll)
	s := start(t, dir, byEvents)
	for range 3 {
		receive(t, k.asked)
		if err := os.Remove(socketIn(dir)); err != nil {
			t.Fatal(err)
		}
	}
	receive(t, k.asked)
	mustBeRegistered(t, s)
	if lines := s.log.lines("was removed"); len(lines) != 3 {
		t.Errorf("the log has %q, want three lines", lines)
	}
}

func TestAFolderThatIsReplacedGetsASocketAnew(t *testing.T) {
	dir := registry(t)
	k, stop := startKubelet(t, dir, takesAll)
	s := start(t, dir, byEvents)
	receive(t, k.asked)
	stop()
	if err := os.Rename(dir, dir+"-old"); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(dir + "-old"); err != nil {
		t.Fatal(err)
	}
	k, _ = startKubelet(t, dir, takesAll)
	receive(t, k.asked)
	mustBeRegistered(t, s)
}

// The kernel tells nothing when a link on the way to the folder is changed.
func TestALookNowAndThenFindsWhatTheKernelDoesNotTell(t *testing.T) {
	top := filepath.Dir(registry(t))
	link := filepath.Join(top, "link")
	for _, dir := range []string{"one", "two"} {
		if err := os.Mkdir(filepath.Join(top, dir), 0o750); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("one", link); err != nil {
		t.Fatal(err)
	}
	one, _ := startKubelet(t, filepath.Join(top, "one"), takesAll)
	two, _ := startKubelet(t, filepath.Join(top, "two"), takesAll)
	s := start(t, link, &registration.Options{MinWait: time.Millisecond, Poll: 5 * time.Millisecond})
	receive(t, one.asked)
	if err := os.Symlink("two", link+"-new"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(link+"-new", link); err != nil {
		t.Fatal(err)
	}
	receive(t, two.asked)
	mustBeRegistered(t, s)
}

func TestTheSocketGoesWithTheDriver(t *testing.T) {
	dir := registry(t)
	k, _ := startKubelet(t, dir, takesAll)
	s := start(t, dir, byEvents)
	receive(t, k.asked)
	s.stop()
	if got := receive(t, k.gone); got != socketIn(dir) {
		t.Errorf("kubelet sees %s go, want the socket", got)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("after the stop the folder has %v (%v)", left, err)
	}
	mustNotBeRegistered(t, s, "the registration socket is not served")
}

func TestTheSocketOfAKilledDriverIsReplaced(t *testing.T) {
	dir := registry(t)
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	killed := listen(t, socketIn(dir))
	if err := killed.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(socketIn(dir)); err != nil {
		t.Fatalf("the killed driver left nothing: %v", err)
	}
	s := start(t, dir, byEvents)
	k, _ := startKubelet(t, dir, takesAll)
	for s.Registered(t.Context()) != nil { // kubelet may see the old one, too
		receive(t, k.asked)
	}
}

func TestTheSocketOfALiveDriverIsWaitedForAndNeverRemoved(t *testing.T) {
	dir := registry(t)
	if err := os.Mkdir(dir, 0o750); err != nil {
		t.Fatal(err)
	}
	other := listen(t, socketIn(dir))
	knocks := make(chan struct{}, 1000)
	go func() {
		for {
			conn, err := other.Accept()
			if err != nil {
				close(knocks)
				return
			}
			_ = conn.Close()
			knocks <- struct{}{}
		}
	}()
	s := start(t, dir, byEvents)
	for range 3 {
		receive(t, knocks)
	}
	eventually(t, s, "another process listens on "+socketIn(dir))
	if lines := s.log.lines("another process listens"); len(lines) != 1 {
		t.Errorf("the log has %q, want one line", lines)
	}
	live(t, socketIn(dir))
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	for range knocks { // until it is over
	}
	k, _ := startKubelet(t, dir, takesAll)
	for s.Registered(t.Context()) != nil {
		receive(t, k.asked)
	}
}

func TestTheStopLeavesTheSocketOfAnotherProcess(t *testing.T) {
	dir := registry(t)
	k, stop := startKubelet(t, dir, takesAll)
	s := start(t, dir, &registration.Options{MinWait: time.Hour, Poll: time.Hour})
	receive(t, k.asked)
	stop()
	if err := os.Rename(listen(t, socketIn(dir)+".new").Addr().String(), socketIn(dir)); err != nil {
		t.Fatal(err)
	}
	s.stop()
	live(t, socketIn(dir))
}

// listen listens as another process would that leaves its file behind.
func listen(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	lis, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	lis.SetUnlinkOnClose(false)
	t.Cleanup(func() { _ = lis.Close() })
	return lis
}

func TestAPathThatIsTooLongIsAnErrorAtOnce(t *testing.T) {
	dir := filepath.Join(registry(t), strings.Repeat("x", 100))
	s, err := registration.New(registration.Config{Dir: dir, Driver: driver, Endpoint: endpoint}, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Run(t.Context())
	if !errors.Is(err, serve.ErrEndpoint) || !strings.Contains(err.Error(), "choose a shorter directory") {
		t.Errorf("Run = %v, want ErrEndpoint with a hint", err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder was made: %v", err)
	}
}

func TestConfigsThatCannotWorkAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*registration.Config)
		want   string
	}{
		{"no folder", func(c *registration.Config) { c.Dir = "" }, `registration folder "" is not an absolute path`},
		{"a relative folder", func(c *registration.Config) { c.Dir = "registry" }, "is not an absolute path"},
		{"no driver", func(c *registration.Config) { c.Driver = "" }, "cannot be part of a socket's name"},
		{"a driver with a slash", func(c *registration.Config) { c.Driver = "../csi" }, "cannot be part of a socket's name"},
		{"no CSI socket", func(c *registration.Config) { c.Endpoint = "" }, "name it as kubelet sees it"},
		{"a URL as CSI socket", func(c *registration.Config) { c.Endpoint = "unix:///csi/csi.sock" }, "name it as kubelet sees it"},
	} {
		t.Run(c.name, func(t *testing.T) {
			config := registration.Config{Dir: "/registration", Driver: driver, Endpoint: endpoint}
			c.change(&config)
			if _, err := registration.New(config, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("New = %v, want %q", err, c.want)
			}
		})
	}
}
