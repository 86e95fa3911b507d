package driver

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/keymount/keymount/pkg/kube"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
	"github.com/keymount/keymount/pkg/volume"
)

// A cluster is all that the driver has to do with an API server.
type cluster struct {
	config   *Config
	client   *kube.Client
	volumes  volume.Store
	classes  *kube.Classes
	statuses *kube.Statuses
	events   *kube.Events
	secrets  *kube.Secrets // nil unless Config.SyncSecrets
	tokens   *kube.Tokens  // nil unless Config.MintTokens
	facts    *kube.Facts
}

// newCluster makes no call.
func newCluster(c *Config, volumes volume.Store) (*cluster, error) {
	client, err := kube.Connect(c.Kubeconfig, "keymount-driver/"+c.Version)
	if err != nil {
		return nil, err
	}
	k := &cluster{config: c, client: client, volumes: volumes}
	k.classes = kube.NewClasses(client, volumes.List())
	k.events = kube.NewEvents(client, c.NodeID, volumes.List())
	k.statuses = kube.NewStatuses(client, volumes, c.NodeID)
	k.facts = kube.NewFacts(client, c.NodeID)
	if c.SyncSecrets {
		k.secrets = kube.NewSecrets(client, k.events, k.statuses)
	}
	if c.MintTokens {
		k.tokens = kube.NewTokens(client)
	}
	return k, nil
}

// complete makes providers have facts that they miss, and tokens that kubelet
// does not bring, if that is asked for.
func (k *cluster) complete(lookup provider.Lookup) provider.Lookup {
	switch {
	case k == nil:
		return lookup
	case k.tokens == nil:
		return provider.Decorate(lookup, k.facts.Middleware())
	default:
		return provider.Decorate(lookup, k.tokens.Middleware(), k.facts.Middleware())
	}
}

// observe lets the cluster hear of what next does.
func (k *cluster) observe(next publish.Publisher) publish.Publisher {
	listeners := []kube.Listener{k.classes, k.statuses, k.events}
	if k.secrets != nil {
		listeners = append(listeners, k.secrets)
	}
	return kube.Observe(next, k.volumes, listeners...)
}

// run tells the cluster what it heard, and watches what providers want to know
// of it, until ctx ends. Ready says when this node may have its pods.
func (k *cluster) run(ctx context.Context, ready func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return k.events.Run(ctx) })
	recall := func(volume.Record, []string) {}
	if k.secrets != nil {
		recall = k.secrets.Recall
		group.Go(func() error { return k.secrets.Run(ctx) })
	}
	group.Go(func() error { return k.statuses.Run(ctx, recall) })
	group.Go(func() error { return k.facts.Run(ctx) })
	if k.config.RemoveStartupTaint {
		group.Go(func() error { return kube.RemoveStartupTaint(ctx, k.client, k.config.NodeID, ready) })
	}
	return group.Wait()
}
