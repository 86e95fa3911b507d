package driver_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
)

const makeToken = "POST /api/v1/namespaces/ns/serviceaccounts/sa/token"

// newTokenRig returns a rig in a cluster whose provider wants a token that
// kubelet does not bring, and then answers so.
func newTokenRig(t *testing.T, then answer) (*rig, *api) {
	t.Helper()
	r, f := newForeignRig(t, nil)
	f.answers(demands("x", then))
	cluster := r.useCluster(map[string]string{"rotationInterval": "24h"})
	r.config.MintTokens = true
	return r, cluster
}

func TestWithoutTheFlagNoTokenIsMade(t *testing.T) {
	r, cluster := newTokenRig(t, holds("first"))
	r.config.MintTokens = false
	r.start()
	r.fails(codes.PermissionDenied, `there is no token of audience "x"`)
	if cluster.called(makeToken) {
		t.Error("a token was made")
	}
}

func TestVolumesOfOneIdentityShareAToken(t *testing.T) {
	r, cluster := newTokenRig(t, func(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		<-time.After(50 * time.Millisecond)
		return holds("first")(ctx, req)
	})
	r.start()
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() {
			if err := r.publish(fmt.Sprint("many-", i)); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := cluster.count(makeToken); got < 1 || got > 2 { // a late one may miss the burst
		t.Errorf("%d tokens for 20 volumes of one identity, want 1", got)
	}
}

func TestATokenThatIsMadeIsNotLoggedToldOrStored(t *testing.T) {
	logs := captureLogs(t)
	r, cluster := newTokenRig(t, func(_ context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		return nil, status.Error(codes.Unauthenticated, "login with "+req.GetAttributes())
	})
	r.start()
	err := r.publish("v")
	if status.Code(err) != codes.Unauthenticated || !cluster.called(makeToken) {
		t.Errorf("publish = %v, want what the provider said with its token", err)
	}
	r.search([]string{cluster.token})
	r.stop()
	klog.Flush()
	if holdsAny(logs.String()+fmt.Sprint(err), []string{cluster.token}) {
		t.Errorf("the token is in the error, %v, or in the log:\n%s", err, logs)
	}
}
