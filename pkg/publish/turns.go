package publish

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/keymount/keymount/pkg/volume"
)

// ErrUnpublished ends the calls that are in progress for a volume when it is
// unpublished.
var ErrUnpublished = errors.New("the volume is being unpublished")

// turns lets calls for one volume take turns, and lets one of them evict the
// others. It holds memory only for volumes that have a call in progress.
type turns struct {
	mu    sync.Mutex
	queue map[volume.ID]*queue
}

// A queue is the calls of one volume, one of which has the turn.
type queue struct {
	turn  chan struct{}      // holds one element while somebody has the turn
	calls map[*call]struct{} // guarded by turns.mu
}

type call struct{ cancel context.CancelCauseFunc }

// take waits for the turn of volume id. The context that it returns ends with
// ctx or when the call is evicted; done gives the turn back.
func (t *turns) take(ctx context.Context, id volume.ID) (turn context.Context, done func(), err error) {
	turn, cancel := context.WithCancelCause(ctx)
	c := &call{cancel}
	q := t.enter(id, c)
	select {
	case q.turn <- struct{}{}:
		return turn, func() { <-q.turn; t.leave(id, q, c) }, nil
	case <-turn.Done():
		t.leave(id, q, c)
		return nil, nil, fmt.Errorf("volume %s: waiting for another call to end: %w", id, context.Cause(turn))
	}
}

// evict ends the contexts of all calls of volume id that are in progress or
// wait for their turn.
func (t *turns) evict(id volume.ID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if q := t.queue[id]; q != nil {
		for c := range q.calls {
			c.cancel(ErrUnpublished)
		}
	}
}

func (t *turns) enter(id volume.ID, c *call) *queue {
	t.mu.Lock()
	defer t.mu.Unlock()
	q := t.queue[id]
	if q == nil {
		q = &queue{turn: make(chan struct{}, 1), calls: make(map[*call]struct{})}
		if t.queue == nil {
			t.queue = make(map[volume.ID]*queue)
		}
		t.queue[id] = q
	}
	q.calls[c] = struct{}{}
	return q
}

func (t *turns) leave(id volume.ID, q *queue, c *call) {
	c.cancel(nil)
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(q.calls, c)
	if len(q.calls) == 0 {
		delete(t.queue, id)
	}
}
