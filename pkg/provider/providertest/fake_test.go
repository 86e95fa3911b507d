package providertest_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
)

var (
	_ provider.Provider = (*providertest.Fake)(nil)
	_ provider.Releaser = (*providertest.Fake)(nil)
	_ provider.Notifier = (*providertest.Fake)(nil)
)

func TestFakeKeepsTheContract(t *testing.T) {
	providertest.Run(t, func(testing.TB) providertest.Backend { return new(providertest.Fake).Backend() })
}

func TestFakeRefusesBadParameters(t *testing.T) {
	for _, c := range []struct{ name, objects string }{
		{"no parameters", ""},
		{"no list", "name: a"},
		{"no YAML", "\t{"},
		{"an unknown key", "[{name: a, nmae: b}]"},
		{"a mode that is not octal", "[{name: a, mode: rw}]"},
		{"a mode that is too large", `[{name: a, mode: "1777"}]`},
		{"an object without a name", "[{mode: '600'}]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var fake providertest.Fake
			req := fake.Request()
			req.Parameters[providertest.ParameterObjects] = c.objects
			if _, err := fake.Fetch(t.Context(), req); !errors.Is(err, provider.ErrInvalid) {
				t.Errorf("Fetch(%q) = %v, want an error that wraps ErrInvalid", c.objects, err)
			}
		})
	}
}

func TestFakeDelaysAndHangsInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fake providertest.Fake
		fake.Put("a", nil)
		fake.Delay(time.Minute)
		began := time.Now()
		if _, err := fake.Fetch(t.Context(), fake.Request(providertest.Object{Name: "a"})); err != nil || time.Since(began) != time.Minute {
			t.Errorf("Fetch took %v and returned %v, want a minute and no error", time.Since(began), err)
		}
		fake.Delay(0)
		waiting := fake.Hang()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		ended := make(chan error)
		for range 2 {
			go func() {
				_, err := fake.Fetch(ctx, fake.Request(providertest.Object{Name: "a"}))
				ended <- err
			}()
		}
		<-waiting
		synctest.Wait()
		fake.Resume()
		for range 2 {
			if err := <-ended; err != nil {
				t.Errorf("a fetch that was resumed: %v", err)
			}
		}
		if got := fake.Fetches(); got != 3 {
			t.Errorf("Fetches() = %d, want 3", got)
		}
	})
}

func TestFakeLeasesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fake providertest.Fake
		fake.LeaseFor(time.Minute)
		fake.RefreshAfter(30 * time.Second)
		req := fake.Request()
		req.Parameters[providertest.ParameterLease] = "database"
		first, err := fake.Fetch(t.Context(), req)
		if err != nil {
			t.Fatalf("Fetch: %v", err)
		}
		want := provider.Lease{ID: "database/1", Expires: time.Now().Add(time.Minute)}
		if diff := cmp.Diff(want, first.Lease); diff != "" || !first.Refresh.Equal(time.Now().Add(30*time.Second)) {
			t.Errorf("refresh at %v, lease (-want +got):\n%s", first.Refresh, diff)
		}
		<-time.After(time.Minute)
		if got := fake.Leases(); got != 0 {
			t.Errorf("%d leases after a minute, want 0", got)
		}
		req.Held = provider.Held{Versions: first.Versions, Lease: first.Lease}
		if again, err := fake.Fetch(t.Context(), req); err != nil || again.Unchanged || again.Lease.ID != "database/2" {
			t.Errorf("Fetch with an expired lease = %+v, %v, want new credentials", again, err)
		}
	})
}

func TestFakeAllowsAgain(t *testing.T) {
	var fake providertest.Fake
	fake.Put("a", nil)
	fake.Deny("a")
	req := fake.Request(providertest.Object{Name: "a"})
	if _, err := fake.Fetch(t.Context(), req); !errors.Is(err, provider.ErrDenied) || !strings.Contains(err.Error(), `"a"`) {
		t.Errorf("Fetch = %v, want an error that wraps ErrDenied and names the object", err)
	}
	fake.Allow("a")
	if _, err := fake.Fetch(t.Context(), req); err != nil {
		t.Errorf("Fetch: %v", err)
	}
}
