package driver_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/provider"
)

// forms returns how a canary turns up in texts: as it is, in hex, and in
// base64 wherever in the encoded text it begins.
func forms(canary string) []string {
	lower := hex.EncodeToString([]byte(canary))
	found := []string{canary, lower, strings.ToUpper(lower)}
	for shift := range 3 { // random letters are the same in both alphabets
		text := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + canary))
		found = append(found, text[4:len(text)-4]) // without what depends on its neighbours
	}
	return found
}

func holdsAny(text string, canaries []string) bool {
	for _, canary := range canaries {
		for _, form := range forms(canary) {
			if strings.Contains(text, form) {
				return true
			}
		}
	}
	return false
}

func TestCanariesAreFound(t *testing.T) {
	canary := rand.Text()
	for _, before := range []string{"", "a", "ab", "abc"} {
		text := before + canary + " and more"
		for _, said := range []string{text, fmt.Sprintf("%x", text), fmt.Sprintf("%X", text), base64.StdEncoding.EncodeToString([]byte(text)), base64.RawURLEncoding.EncodeToString([]byte(text))} {
			if !holdsAny(said, []string{rand.Text(), canary}) || holdsAny(said, []string{rand.Text()}) {
				t.Errorf("the search for %s in %s is wrong", canary, said)
			}
		}
	}
}

// A parrot is a provider that says more than it should, when it is told to.
type parrot struct {
	provider.Provider
	mode atomic.Value // string: "", "fail" or "panic"
}

func (p *parrot) Unwrap() provider.Provider { return p.Provider }

func (p *parrot) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	var said []string
	for _, token := range req.Tokens {
		said = append(said, string(token.Value.Reveal()))
	}
	for _, value := range req.Credentials {
		said = append(said, string(value.Reveal()))
	}
	text := fmt.Sprintf("%s %x %s %v", said, said, base64.StdEncoding.EncodeToString([]byte(strings.Join(said, " "))), req)
	switch p.mode.Load() {
	case "fail":
		return nil, fmt.Errorf("login with %s: %w", text, provider.ErrDenied)
	case "panic":
		panic(text)
	}
	return p.Provider.Fetch(ctx, req)
}

// The whole driver at the highest verbosity, through success, rotation and
// failures: what it says, and all that it leaves on the disk outside volumes.
func TestNoSecretIsLoggedToldOrStored(t *testing.T) {
	logs := captureLogs(t)
	value, token, credential := rand.Text(), rand.Text(), rand.Text()
	canaries := []string{value, token, credential}
	r := prepareRig(t)
	p := &parrot{Provider: r.store}
	p.mode.Store("")
	r.serveStore(p)
	r.start()
	r.store.Put("password", []byte(value+"1"))

	var said strings.Builder
	ask := func(id, tokens string, want codes.Code) {
		t.Helper()
		req := r.request(id)
		req.Secrets = map[string]string{"client": credential}
		where := map[string]map[string]string{"v": req.VolumeContext, "w": req.Secrets}[id] // as kubelets of both kinds do
		where["csi.storage.k8s.io/serviceAccount.tokens"] = tokens
		req.VolumeContext["csi.storage.k8s.io/serviceAccount.name"] = "of-" + id // they share no fetch
		err := r.send(req)
		if status.Code(err) != want {
			t.Errorf("publish of %s = %v, want %v", id, err, want)
		}
		fmt.Fprintf(&said, "%v\n", err)
	}
	tokens := fmt.Sprintf(`{"vault":{"token":%q,"expirationTimestamp":"2130-01-02T03:04:05Z"}}`, token)
	ask("v", tokens, codes.OK)
	r.becomes("v", value+"1")
	r.store.Put("password", []byte(value+"2"))
	r.becomes("v", value+"2")

	p.mode.Store("panic")
	ask("w", tokens, codes.Internal)
	p.mode.Store("fail")
	ask("w", tokens, codes.PermissionDenied)
	ask("w", tokens[:len(tokens)-1], codes.InvalidArgument)
	r.store.Put("password", []byte(value+"3")) // the rotation fails
	r.eventually("the volume is stale", func() bool {
		rec, _ := r.driver.Volumes().Get("v")
		return !rec.Stale.IsZero()
	})
	ask("v", tokens, codes.OK)
	stats, err := r.node.NodeGetVolumeStats(t.Context(), &csi.NodeGetVolumeStatsRequest{VolumeId: "v", VolumePath: r.target("v")})
	fmt.Fprintf(&said, "%v %q %v\n", stats, stats.ProtoReflect().GetUnknown(), err)
	health, err := r.node.NodeGetVolumeHealth(t.Context(), &csi.NodeGetVolumeHealthRequest{VolumeId: "v"})
	fmt.Fprintln(&said, health, err)
	if !strings.Contains(said.String(), "login with") {
		t.Errorf("the provider's words are not in what the driver said:\n%s", &said)
	}

	if searched := r.search(canaries); searched < 3 { // the class, a record, the boot ID
		t.Errorf("only %d files were searched", searched)
	}
	if err := r.unpublish("v"); err != nil {
		t.Error(err)
	}
	r.stop()
	klog.Flush()
	for _, sign := range []string{"Call served", "Recovered from a panic", "passthrough"} { // of klog at level 2, a panic, and gRPC
		if !strings.Contains(logs.String(), sign) {
			t.Errorf("the log has no %q, so that the search finds nothing", sign)
		}
	}
	if holdsAny(logs.String(), canaries) {
		t.Errorf("a canary is in the log:\n%s", logs)
	}
	if holdsAny(said.String(), canaries) {
		t.Errorf("a canary is in what kubelet was told:\n%s", &said)
	}
}

// search looks for canaries in every file of the rig's folder, and its path,
// except in volumes. It returns how many files those are.
func (r *rig) search(canaries []string) (files int) {
	r.t.Helper()
	err := filepath.WalkDir(r.dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case filepath.Dir(path) == r.path("pods"):
			return fs.SkipDir
		case !entry.Type().IsRegular():
			return nil
		}
		files++
		text, err := os.ReadFile(path)
		if holdsAny(path+string(text), canaries) {
			r.t.Errorf("a canary is in %s:\n%s", path, text)
		}
		return err
	})
	if err != nil {
		r.t.Error(err)
	}
	return files
}

// grpcLogs passes what gRPC logs on to a test that wants it. The logger itself
// can only be set before the first connection.
var grpcLogs valve

type valve struct {
	mu sync.Mutex
	to io.Writer // nil: nobody wants it
}

func (v *valve) Write(p []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.to == nil {
		return len(p), nil
	}
	return v.to.Write(p)
}

func (v *valve) open(to io.Writer) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.to = to
}

// captureLogs collects what klog, at its highest level, and gRPC log until the
// test ends.
func captureLogs(t *testing.T) *syncBuffer {
	t.Helper()
	logs, state := &syncBuffer{}, klog.CaptureState()
	flags := flag.NewFlagSet("klog", flag.ContinueOnError)
	klog.InitFlags(flags)
	for name, value := range map[string]string{"v": "10", "logtostderr": "false", "stderrthreshold": "FATAL"} {
		if err := flags.Set(name, value); err != nil {
			t.Fatal(err)
		}
	}
	klog.SetOutput(logs)
	grpcLogs.open(logs)
	t.Cleanup(func() { // after the rig's, when nobody logs
		klog.Flush()
		state.Restore()
		grpcLogs.open(nil)
	})
	return logs
}

// A syncBuffer is a buffer that loggers may share.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
