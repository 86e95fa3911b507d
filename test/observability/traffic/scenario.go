package traffic

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// An act is something that happens to the stores at a share of the scenario.
type act struct {
	at float64
	do func(c *Cluster, length time.Duration) error
}

// acts are what goes wrong, and ends again. All of it leaves traces in metrics.
func acts() []act {
	always := func(do func(s *stores)) func(*Cluster, time.Duration) error {
		return func(c *Cluster, _ time.Duration) error { do(&c.stores); return nil }
	}
	return []act{
		{0.16, always(func(s *stores) { s.certificates.Delay(150 * time.Millisecond) })},
		{0.30, always(func(s *stores) { s.certificates.Delay(0) })},
		{0.36, always(func(s *stores) { s.database.Break() })},
		{0.58, always(func(s *stores) { s.database.Repair(); s.database.Put("url", []byte("postgres://other.shop.svc")) })},
		{expiry, always(func(s *stores) { s.certificates.Expire("web.pem") })},
		{0.74, func(c *Cluster, _ time.Duration) error { return c.audit.leave() }},
		{0.82, func(c *Cluster, _ time.Duration) error { return c.audit.listen() }},
		{0.88, func(c *Cluster, length time.Duration) error {
			c.stores.certificates.endIn(length)
			c.stores.certificates.Put("web.pem", []byte("renewed"))
			return nil
		}},
	}
}

// expiry is when the certificate expires.
const expiry = 0.66

const (
	beat      = 100 * time.Millisecond // between two steps of the scenario
	lifetime  = 30                     // beats that a pod lives for
	residents = 4                      // pods of each class that stay on each node
)

// Play plays the scenario for that long: pods come and go on all nodes, some
// ask for what they do not get, secrets rotate, and stores fail for a while.
func (c *Cluster) Play(ctx context.Context, length time.Duration) error {
	c.stores.certificates.Put("other.pem", []byte("denied"))
	c.stores.certificates.Deny("other.pem")
	c.stores.database.LeaseFor(length / 10)
	c.stores.certificates.endIn(time.Duration(expiry * float64(length)))
	if err := c.settle(ctx); err != nil {
		return err
	}
	beats, pending := int(length/beat), acts()
	tick := time.NewTicker(beat)
	defer tick.Stop()
	var running sync.WaitGroup
	defer running.Wait()
	for i := range beats {
		for len(pending) > 0 && float64(i)/float64(beats) >= pending[0].at {
			if err := pending[0].do(c, length); err != nil {
				return err
			}
			pending = pending[1:]
		}
		if i%10 == 5 {
			if err := c.stores.change(fmt.Sprint("value ", i)); err != nil {
				return err
			}
		}
		for k, n := range c.Nodes {
			running.Go(func() { n.step(ctx, i+3*k) })
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// settle starts the pods that stay.
func (c *Cluster) settle(ctx context.Context) error {
	for _, n := range c.Nodes {
		for i := range residents {
			for _, class := range []string{files, database, certificates} {
				if err := n.publish(ctx, fmt.Sprintf("%s-%s-stays-%d", n.Name, class, i), class); err != nil {
					return fmt.Errorf("publish a volume of %s on %s: %w", class, n.Name, err)
				}
			}
		}
	}
	return nil
}

// A pod asks for the volume of one class.
type pod struct{ name, class string }

// pods returns those that a node starts at a beat: now and then several of a
// Deployment at once, which share fetches, and some that cannot start.
func (n *Node) pods(i int) (all []pod) {
	add := func(due bool, name, class string) {
		if due {
			all = append(all, pod{fmt.Sprintf("%s-%s-%d", n.Name, name, i), class})
		}
	}
	add(i%4 == 0, files, files)
	add(i%6 == 0, database, database)
	add(i%6 == 0, certificates, certificates)
	for _, class := range []string{"denied", missing, "nowhere"} {
		add(i%20 == 0, class, class)
	}
	for j := range 6 {
		add(i%25 == 0 || i%25 == 1, fmt.Sprint("web-", j), certificates)
	}
	return all
}

// step starts and ends the pods that are due. That some fail is what is wanted;
// the driver counts them.
func (n *Node) step(ctx context.Context, i int) {
	var calls sync.WaitGroup
	for _, p := range n.pods(i) {
		calls.Go(func() { _ = n.publish(ctx, p.name, p.class) })
	}
	if old := i - lifetime; old >= 0 {
		for _, p := range n.pods(old) {
			calls.Go(func() { _ = n.unpublish(ctx, p.name) })
		}
	}
	if i%40 == 39 {
		calls.Go(func() { _ = errors.Join(n.litter("litter"), n.unpublish(ctx, "litter")) })
	}
	calls.Wait()
}
