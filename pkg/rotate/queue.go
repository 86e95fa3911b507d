package rotate

import (
	"container/heap"
	"time"

	"github.com/keymount/keymount/pkg/volume"
)

// An item is a volume that is refreshed from time to time. It is in line for
// its due time, or a worker has it.
type item struct {
	id    volume.ID
	due   time.Time
	place int // in the heap; out if a worker has it

	// hastened: due at once whatever the record says, until it is taken.
	hastened bool
	// observed: a call from outside ended since a worker took it.
	observed bool

	failures int  // in a row, that the record does not know
	stale    bool // as in the record, when last seen
}

const out = -1

// taken reports whether a worker has the item.
func (it *item) taken() bool { return it.place == out }

// A queue holds one item for each volume, and those that are in line ordered
// by due time.
type queue struct {
	items map[volume.ID]*item
	line  line
}

// item returns the item of that ID, a new one if there is none. A new one is
// not in line: the caller puts it there.
func (q *queue) item(id volume.ID) *item {
	it, ok := q.items[id]
	if !ok {
		it = &item{id: id, place: out}
		q.items[id] = it
	}
	return it
}

// put moves the item to its due time, into the line if it was out.
func (q *queue) put(it *item, due time.Time) {
	it.due = due
	if it.taken() {
		heap.Push(&q.line, it)
		return
	}
	heap.Fix(&q.line, it.place)
}

// take returns the item that is due at now, and puts it out of the line; or
// nil and how long to wait until one is, at most limit.
func (q *queue) take(now time.Time, limit time.Duration) (*item, time.Duration) {
	if len(q.line) == 0 {
		return nil, limit
	}
	if wait := q.line[0].due.Sub(now); wait > 0 {
		return nil, min(wait, limit)
	}
	return heap.Pop(&q.line).(*item), 0
}

// forget removes the item.
func (q *queue) forget(it *item) {
	delete(q.items, it.id)
	if !it.taken() {
		heap.Remove(&q.line, it.place)
	}
}

// A line is a heap.Interface of items, the earliest first.
type line []*item

func (l line) Len() int           { return len(l) }
func (l line) Less(i, j int) bool { return l[i].due.Before(l[j].due) }

func (l line) Swap(i, j int) {
	l[i], l[j] = l[j], l[i]
	l[i].place, l[j].place = i, j
}

// Push implements heap.Interface.
func (l *line) Push(x any) {
	it := x.(*item)
	it.place = len(*l)
	*l = append(*l, it)
}

// Pop implements heap.Interface.
func (l *line) Pop() any {
	last := len(*l) - 1
	it := (*l)[last]
	(*l)[last] = nil
	*l = (*l)[:last]
	it.place = out
	return it
}
