package driver_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
)

const (
	getAccount = "GET /api/v1/namespaces/ns/serviceaccounts/sa"
	getNode    = "GET /api/v1/nodes/n"
)

// asksFor answers so only where there are facts, of which these are the names
// and the whole, as the wire has them.
func asksFor(names, facts string, then answer) answer {
	return func(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		if got := metadata.ValueFromIncomingContext(ctx, "keymount-facts-bin"); len(got) != 1 || got[0] != facts {
			_ = grpc.SetTrailer(ctx, metadata.Pairs("keymount-missing-facts-bin", names))
			return nil, status.Errorf(codes.InvalidArgument, "the facts are %q", got)
		}
		return then(ctx, req)
	}
}

// wantsTwo wants a fact of the service account and one of the node.
func wantsTwo(then answer) answer {
	return asksFor(`["serviceaccount/example.com/role","node/topology.kubernetes.io/region"]`,
		`{"node/topology.kubernetes.io/region":"eu","serviceaccount/example.com/role":"reader"}`, then)
}

func TestVolumesOfOneIdentityShareFacts(t *testing.T) {
	r, f := newForeignRig(t, nil)
	cluster := r.useCluster(map[string]string{"rotationInterval": "24h"})
	f.answers(wantsTwo(func(ctx context.Context, req *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		<-time.After(50 * time.Millisecond)
		return holds("first")(ctx, req)
	}))
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
	if account, node := cluster.count(getAccount), cluster.count(getNode); account != 1 || node != 1 {
		t.Errorf("20 volumes of one identity asked %d times for their account and %d times for the node, want once each", account, node)
	}
	r.eventually("both are watched", func() bool {
		return cluster.called("WATCH /api/v1/namespaces/ns/serviceaccounts") && cluster.called("WATCH /api/v1/nodes")
	})
	if got := len(f.requests()); got < 2 || got > 3 { // a late one may miss the burst
		t.Errorf("%d fetches for 20 volumes of one identity, want 2", got)
	}
}

func TestAProviderMayMissFactsAndThenAToken(t *testing.T) {
	r, f := newForeignRig(t, nil)
	cluster := r.useCluster(map[string]string{"rotationInterval": "24h"})
	r.config.MintTokens = true
	f.answers(wantsTwo(demands("x", holds("first"))))
	r.start()
	r.mustPublish("v")
	if fetches, made := len(f.requests()), cluster.count(makeToken); fetches != 3 || made != 1 {
		t.Errorf("%d fetches and %d tokens, want 3 and 1", fetches, made)
	}
}

func TestAProviderThatWantsNoFactsCostsNoLookup(t *testing.T) {
	r, _ := newForeignRig(t, nil)
	cluster := r.useCluster(map[string]string{"rotationInterval": "24h"})
	r.start()
	r.mustPublish("v")
	if cluster.count(getAccount) > 0 || cluster.count(getNode) > 0 {
		t.Error("the service account or the node was read")
	}
}

func TestWithoutAClusterFactsAreMissing(t *testing.T) {
	r, f := newForeignRig(t, nil)
	f.answers(wantsTwo(holds("first")))
	r.start()
	r.fails(codes.InvalidArgument, "the facts are []")
	if got := len(f.requests()); got != 1 {
		t.Errorf("%d fetches, want 1", got)
	}
}
