package publish

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

func TestCallsForOneVolumeTakeTurns(t *testing.T) {
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
}

func TestCallsForDifferentVolumesDoNotWait(t *testing.T) {
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
}

func TestACallerThatGivesUpGetsNoTurnAndSaysWhy(t *testing.T) {
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
}

func TestEvictingEndsTheCallsInProgressAndNotLaterOnes(t *testing.T) {
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
}
