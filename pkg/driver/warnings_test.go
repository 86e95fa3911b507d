package driver_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
)

// expires answers so with a warning.
func expires(message string, then answer) answer {
	return func(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		text, err := json.Marshal([]provider.Warning{{Reason: provider.Expired, Message: message}})
		if err != nil {
			return nil, err
		}
		if err := grpc.SetHeader(ctx, metadata.Pairs("keymount-warnings-bin", string(text))); err != nil {
			return nil, err
		}
		return then(ctx, req)
	}
}

// counted returns the value of a metric, or zero if there is none.
func counted(t *testing.T, address, metric string) (n int) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + address + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, after, _ := strings.Cut(string(body), "\n"+metric+" ")
	_, _ = fmt.Sscan(after, &n)
	return n
}

func TestAPodIsToldOnceThatWhatItIsGivenHasExpired(t *testing.T) {
	logs, credential := captureLogs(t), rand.Text()
	r, f := newForeignRig(t, nil)
	cluster := r.useCluster(map[string]string{"rotationInterval": "1s"})
	r.config.MetricsAddr = freeAddress(t)
	f.answers(expires("secret a, version 1, which "+credential+" reads, has expired", holds("first")))
	r.start()
	req := r.request("v")
	req.Secrets = map[string]string{"client": credential}
	if err := r.send(req); err != nil {
		t.Fatal(err)
	}
	r.becomes("v", "first")
	const metric = `keymount_warnings_total{provider="foreign",reason="Expired"}`
	r.eventually("each refresh counts", func() bool { return counted(t, r.config.MetricsAddr, metric) > 2 })
	r.eventually("the pod is told", func() bool { return len(cluster.told("SecretExpired")) > 0 })
	if diff := cmp.Diff([]string{"class ns/c: secret a, version 1, which [secret] reads, has expired"}, cluster.told("SecretExpired")); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	klog.Flush()
	if n := strings.Count(logs.String(), "Volume serves what has expired"); n != 1 || strings.Contains(logs.String(), credential) {
		t.Errorf("the log says it %d times, want once and no credential:\n%s", n, logs)
	}
}
