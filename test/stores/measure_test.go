package stores

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/coalesce"
	"github.com/keymount/keymount/pkg/provider/limit"
	"github.com/keymount/keymount/providers/vault"
	"github.com/keymount/keymount/test/stores/openbao"
)

// measure notes a number that documentation quotes. TestMain prints them all,
// because what a test prints is shown only if it fails.
func measure(t testing.TB, name string, value int, unit string) {
	t.Helper()
	measures = append(measures, fmt.Sprintf("stores-measure: %s=%d %s", name, value, unit))
}

var measures []string

// pods is how many volumes of one identity are measured.
const pods = 50

// A fleet is the volumes of one identity on one node.
type fleet struct {
	*world
	provider provider.Provider
	requests []*provider.Request
	bundles  []*provider.Bundle
}

// newFleet returns volumes that ask for the objects through the provider.
func (w *world) newFleet(t testing.TB, p provider.Provider, objects string) *fleet {
	t.Helper()
	f := &fleet{world: w, provider: p, bundles: make([]*provider.Bundle, pods)}
	for i := range pods {
		pod := web
		pod.Name = fmt.Sprintf("web-%d", i)
		pod.UID = "uid-of-" + pod.Name
		f.requests = append(f.requests, w.askAs(t, pod, objects, nil))
	}
	return f
}

// ask lets all volumes ask at once, as on a shared grid of due times, and
// returns what that asked of the server.
func (f *fleet) ask(t testing.TB, unchanged bool) openbao.Requests {
	t.Helper()
	return f.During(t, func() {
		var all sync.WaitGroup
		for i := range pods {
			req := f.requests[i]
			if f.bundles[i] != nil {
				req = f.holding(t, f.bundles[i], req)
			}
			all.Go(func() {
				bundle, err := f.provider.Fetch(t.Context(), req)
				if err != nil {
					t.Errorf("volume %d: %v", i, err)
					return
				}
				if bundle.Unchanged != unchanged {
					t.Errorf("volume %d: unchanged is %v, want %v", i, bundle.Unchanged, unchanged)
				}
				f.bundles[i] = bundle
			})
		}
		all.Wait()
	})
}

// behindTheDriver puts in front of a provider what the driver does.
func behindTheDriver(t testing.TB, p provider.Provider) provider.Provider {
	t.Helper()
	shared := coalesce.New(nil)
	t.Cleanup(func() {
		if err := shared.Close(); err != nil {
			t.Error(err)
		}
	})
	lookup := provider.Decorate(func(string) (provider.Provider, error) { return p, nil }, limit.New(nil).Middleware(), shared.Middleware())
	decorated, err := lookup("openbao")
	if err != nil {
		t.Fatal(err)
	}
	return decorated
}

func TestRequestsOfFiftyVolumes(t *testing.T) {
	for _, secrets := range []int{1, 3} {
		for _, c := range []struct {
			name    string
			chain   func(testing.TB, provider.Provider) provider.Provider
			fetches int // that reach the provider, at most
		}{
			{"alone", func(_ testing.TB, p provider.Provider) provider.Provider { return p }, pods},
			{"behind-the-driver", behindTheDriver, 1},
		} {
			t.Run(fmt.Sprintf("%d secrets, %s", secrets, c.name), func(t *testing.T) {
				w, objects := newSecrets(t, secrets)
				f := w.newFleet(t, c.chain(t, w.provider(t, vault.OpenBao, nil)), objects)
				first := f.ask(t, false)
				afterCoalesce(t)
				poll := f.ask(t, true)
				afterCoalesce(t)
				later := f.ask(t, true)
				label := fmt.Sprintf("%d-volumes-%d-secrets-%s", pods, secrets, c.name)
				report(t, label+"-first", first)
				report(t, label+"-poll", poll)
				atMost(t, "logins of the first publish", first.Logins(), 1)
				atMost(t, "reads of the first publish", first.At("kv/data/", ""), c.fetches*secrets)
				atMost(t, "requests for the mount", first.At("sys/internal/", ""), c.fetches)
				atMost(t, "requests of a poll", poll, c.fetches*secrets)
				atMost(t, "reads of a poll", poll.At("kv/data/", ""), 0)
				atMost(t, "requests of the next poll", later, c.fetches*secrets)
			})
		}
	}
}

// afterCoalesce waits until package coalesce has forgotten the last result.
func afterCoalesce(t testing.TB) {
	t.Helper()
	after(t, time.Now().Add(1200*time.Millisecond))
}

// newSecrets returns a world with so many secrets, and objects for them.
func newSecrets(t testing.TB, n int) (*world, string) {
	t.Helper()
	w := newWorld(t, nil)
	w.MountKV(t, "kv", 2)
	w.Policy(t, "app", map[string]string{"kv/data/*": "read", "kv/metadata/*": "read"})
	var objects strings.Builder
	for i := range n {
		w.Write(t, fmt.Sprintf("kv/data/s%d", i), openbao.Fields{"data": openbao.Fields{"password": newSecret()}})
		fmt.Fprintf(&objects, "- {objectName: s%[1]d, secretPath: kv/data/s%[1]d, secretKey: password}\n", i)
	}
	return w, objects.String()
}

func report(t testing.TB, label string, requests openbao.Requests) {
	t.Helper()
	measure(t, label+"-requests", len(requests), "requests")
	measure(t, label+"-logins", len(requests.Logins()), "logins")
	measure(t, label+"-reads", len(requests.At("kv/data/", "")), "requests")
	measure(t, label+"-metadata", len(requests.At("kv/metadata/", "")), "requests")
}

func atMost(t testing.TB, what string, requests openbao.Requests, limit int) {
	t.Helper()
	if len(requests) > limit {
		t.Errorf("%s: %d, want at most %d: %.2000v", what, len(requests), limit, requests)
	}
}

// The token of an identity that goes on asking is renewed, and is the only one.
func TestRenewalsOfATokenInUse(t *testing.T) {
	w, password := newKV(t, nil)
	w.role(t, "app", openbao.Fields{"token_ttl": "3s"})
	p := w.provider(t, vault.OpenBao, nil)
	req := w.ask(t, passwordObject, nil)
	bundle := mustHave(t, p, req, password)
	const seconds = 12
	requests := w.During(t, func() {
		for range seconds {
			after(t, time.Now().Add(time.Second))
			if again := fetch(t, p, w.holding(t, bundle, req)); !again.Unchanged {
				t.Error("a poll says that something has changed")
			}
		}
	})
	renewals := requests.At("auth/token/renew-self", "")
	measure(t, "token-of-3s-for-12s-renewals", len(renewals), "renewals")
	measure(t, "token-of-3s-for-12s-logins", len(requests.Logins()), "logins")
	atMost(t, "logins", requests.Logins(), 0)
	atMost(t, "renewals", renewals, seconds/2+1)
	if len(renewals) < seconds/3 {
		t.Errorf("a token of 3 s was renewed %d times in %d s", len(renewals), seconds)
	}
}

// Leases are never shared: what fifty volumes hold is renewed fifty times.
func TestRequestsOfFiftyLeases(t *testing.T) {
	w := newDatabase(t, "20s", "1h")
	f := w.newFleet(t, behindTheDriver(t, w.provider(t, vault.OpenBao, nil)), databaseObjects)
	first := f.ask(t, false)
	afterCoalesce(t)
	at := renewal(f.bundles[0])
	early := f.ask(t, true)
	after(t, at)
	due := f.ask(t, true)
	for i, requests := range []openbao.Requests{first, early, due} {
		label := fmt.Sprintf("%d-leases-%s", pods, []string{"first", "early-poll", "renewal"}[i])
		measure(t, label+"-requests", len(requests), "requests")
		measure(t, label+"-logins", len(requests.Logins()), "logins")
		measure(t, label+"-renewals", len(requests.At("sys/leases/renew", "")), "renewals")
	}
	atMost(t, "logins of the first publish", first.Logins(), pods+1)
	atMost(t, "requests before the renewal", early, 0)
	atMost(t, "requests of the renewal", due, 2*pods)
	atMost(t, "logins of the renewal", due.Logins(), 0)
	if got := len(w.Leases(t, "db/creds/app")); got != pods {
		t.Errorf("%d leases at the server, %d volumes", got, pods)
	}
	if roles := w.database.Roles(t); len(roles) != pods {
		t.Errorf("%d roles in the database, %d volumes", len(roles), pods)
	}
}
