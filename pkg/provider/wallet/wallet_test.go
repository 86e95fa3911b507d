package wallet_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/wallet"
)

// A desk logs in: it counts that, and numbers what it gives out.
type desk struct {
	takes, life time.Duration
	err         error
	logins      int
}

func (d *desk) login(ctx context.Context) (string, time.Time, error) {
	d.logins++
	number := d.logins
	select {
	case <-time.After(d.takes):
	case <-ctx.Done():
		return "", time.Time{}, ctx.Err()
	}
	if d.err != nil {
		return "", time.Time{}, d.err
	}
	var end time.Time
	if d.life > 0 {
		end = time.Now().Add(d.life)
	}
	return fmt.Sprint("token ", number), end, nil
}

func get(t *testing.T, w *wallet.Wallet[string], d *desk, want string) {
	t.Helper()
	if got, err := w.Get(t.Context(), "web", d.login); got != want || err != nil {
		t.Errorf("Get = %q, %v; want %q", got, err, want)
	}
}

func TestManyWaitForOneLogin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := &wallet.Wallet[string]{}, &desk{takes: time.Second, life: time.Hour}
		defer w.Close()
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() { get(t, w, d, "token 1") })
		}
		all.Wait()
		if d.logins != 1 {
			t.Errorf("%d logins", d.logins)
		}
	})
}

func TestCredentialsAreReplacedBeforeTheirEndAndForgottenAfterIt(t *testing.T) {
	for _, life := range []time.Duration{time.Minute, time.Hour, 0} {
		synctest.Test(t, func(t *testing.T) {
			w, d := &wallet.Wallet[string]{}, &desk{life: life}
			defer w.Close()
			kept := life
			if life == 0 { // it does not say
				kept = time.Hour
			}
			get(t, w, d, "token 1")
			time.Sleep(kept / 2)
			get(t, w, d, "token 1")
			time.Sleep(kept/2 - time.Second)
			get(t, w, d, "token 2")
			time.Sleep(2 * kept)
			synctest.Wait()
			if n := w.Len(); n != 0 {
				t.Errorf("%d identities have credentials that are over", n)
			}
		})
	}
}

func TestAnOutageIsBridgedUntilTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := &wallet.Wallet[string]{}, &desk{life: time.Hour}
		defer w.Close()
		get(t, w, d, "token 1")
		time.Sleep(59 * time.Minute)
		d.err = provider.ErrUnavailable
		get(t, w, d, "token 1")
		time.Sleep(time.Minute)
		if _, err := w.Get(t.Context(), "web", d.login); !errors.Is(err, provider.ErrUnavailable) {
			t.Errorf("Get = %v", err)
		}
	})
}

func TestARefusalIsNotBridged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := &wallet.Wallet[string]{}, &desk{life: time.Hour}
		defer w.Close()
		get(t, w, d, "token 1")
		time.Sleep(59 * time.Minute)
		d.err = provider.ErrDenied
		if _, err := w.Get(t.Context(), "web", d.login); !errors.Is(err, provider.ErrDenied) {
			t.Errorf("Get = %v", err)
		}
	})
}

func TestOneWhoLeavesDoesNotEndTheLoginOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := &wallet.Wallet[string]{}, &desk{takes: 10 * time.Second, life: time.Hour}
		defer w.Close()
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		left := make(chan error)
		go func() {
			_, err := w.Get(hasty, "web", d.login)
			left <- err
		}()
		synctest.Wait()
		var other sync.WaitGroup
		other.Go(func() { get(t, w, d, "token 1") })
		if err := <-left; !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, provider.ErrUnavailable) {
			t.Errorf("Get = %v", err)
		}
		other.Wait()
	})
}

func TestALoginThatNobodyWaitsForEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := &wallet.Wallet[string]{}, &desk{takes: time.Hour}
		hasty, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := w.Get(hasty, "web", d.login); !errors.Is(err, provider.ErrUnavailable) {
			t.Errorf("Get = %v", err)
		}
		w.Close()
		d.takes = 0
		get(t, w, d, "token 2")
	})
}

func TestALoginIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, d := &wallet.Wallet[string]{}, &desk{takes: time.Hour}
		began := time.Now()
		if _, err := w.Get(t.Context(), "web", d.login); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Get = %v", err)
		}
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %v", took)
		}
	})
}

func TestWhatIsSpentIsDroppedAndNotWhatReplacedIt(t *testing.T) {
	w, d := &wallet.Wallet[string]{}, &desk{}
	get(t, w, d, "token 1")
	w.Drop("web", func(c string) bool { return c == "token 1" })
	get(t, w, d, "token 2")
	w.Drop("web", func(c string) bool { return c == "token 1" })
	w.Drop("nobody", func(string) bool { return true })
	get(t, w, d, "token 2")
}
