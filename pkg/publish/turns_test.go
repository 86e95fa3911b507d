package publish

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestTurns(t *testing.T) {
	t.Run("calls for one volume take turns", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var all turns
			_, done, err := all.take(t.Context(), "v")
			if err != nil {
				t.Fatal(err)
			}
			second := make(chan error, 1)
			go func() {
				_, done, err := all.take(t.Context(), "v")
				if err == nil {
					done()
				}
				second <- err
			}()
			synctest.Wait()
			select {
			case <-second:
				t.Fatal("the second call did not wait for the first")
			default:
			}
			done()
			if err := <-second; err != nil {
				t.Errorf("second take = %v, want its turn", err)
			}
		})
	})
	t.Run("calls for different volumes do not wait", func(t *testing.T) {
		var all turns
		_, first, err := all.take(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		defer first()
		_, second, err := all.take(t.Context(), "b")
		if err != nil {
			t.Fatal(err)
		}
		second()
	})
	t.Run("a caller that gives up gets no turn and says why", func(t *testing.T) {
		var all turns
		_, done, err := all.take(t.Context(), "v")
		if err != nil {
			t.Fatal(err)
		}
		defer done()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, err := all.take(ctx, "v"); !errors.Is(err, context.Canceled) {
			t.Errorf("take = %v, want context.Canceled", err)
		}
	})
	t.Run("evicting ends the call that runs and those that wait, and not later ones", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var all turns
			running, done, err := all.take(t.Context(), "v")
			if err != nil {
				t.Fatal(err)
			}
			waiting := make(chan error, 1)
			go func() {
				_, _, err := all.take(t.Context(), "v")
				waiting <- err
			}()
			synctest.Wait()
			all.evict("v")
			if err := <-waiting; !errors.Is(err, ErrUnpublished) {
				t.Errorf("waiting take = %v, want ErrUnpublished", err)
			}
			if err := context.Cause(running); !errors.Is(err, ErrUnpublished) {
				t.Errorf("cause of the running call = %v, want ErrUnpublished", err)
			}
			done()
			later, done, err := all.take(t.Context(), "v")
			if err != nil || later.Err() != nil {
				t.Fatalf("later take = %v, %v", later.Err(), err)
			}
			done()
			if len(all.queue) != 0 {
				t.Errorf("%d queues are kept without a call", len(all.queue))
			}
		})
	})
}
