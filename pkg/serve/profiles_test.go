package serve_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/serve"
)

func TestProfilesAreServedOnASocketThatNobodyElseOpens(t *testing.T) {
	endpoint, path := socketIn(t)
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	lis := listen(t, endpoint, nil)
	go func() { served <- serve.Profiles(ctx, lis, time.Minute) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}}}
	for page, want := range map[string]string{"goroutine?debug=1": "goroutine profile:", "heap?debug=1": "heap profile:", "profile?seconds=1": "", "trace?seconds=0.1": ""} {
		resp, err := client.Get("http://profiles/debug/pprof/" + page)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(text), want) || len(text) == 0 {
			t.Errorf("%s: %s, %.40q, %v", page, resp.Status, text, err)
		}
		_ = resp.Body.Close()
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info, err)
	}
	stop()
	if err := <-served; err != nil {
		t.Error(err)
	}
}
