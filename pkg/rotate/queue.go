package rotate

import (
	"container/heap"
	"time"

	"github.com/keymount/keymount/pkg/volume"
)

// An item is a volume that is refreshed from time to time. It is in line for
// its due time, or it is being refreshed.
type item struct {
	id    volume.ID
	due   time.Time
	lane  *lane
	place int // in the lane's line; out while it is being refreshed

	// hastened: due whatever the record says, until it is taken.
	hastened bool
	// observed: a call from outside ended since it was taken.
	observed bool

	began    time.Time // when it was last taken
	failures int       // in a row, that the record does not know
	stale    bool      // as in the record, when last seen
}

const out = -1

// taken reports whether the item is being refreshed.
func (it *item) taken() bool { return it.place == out }

// A laneKey is what the volumes of a lane have in common. Stale ones keep to
// themselves: those that one class made hang do not delay the others.
type laneKey struct {
	provider string
	stale    bool
}

// A lane is volumes that wait for one another, and for nobody else.
type lane struct {
	key     laneKey
	line    line
	running int // items that are taken
}

// A queue holds one item for each volume, and those that are in line ordered
// by due time in each lane.
type queue struct {
	width int // how many items of a lane are taken at most
	items map[volume.ID]*item
	lanes map[laneKey]*lane // those that are not empty
}

func newQueue(width int) queue {
	return queue{width: width, items: make(map[volume.ID]*item), lanes: make(map[laneKey]*lane)}
}

// put lines the volume up for its due time, in the lane of its record. What
// is queued of it already moves there.
func (q *queue) put(rec volume.Record, due time.Time) *item {
	it, queued := q.items[rec.ID]
	if queued {
		q.leave(it)
	} else {
		it = &item{id: rec.ID}
		q.items[rec.ID] = it
	}
	it.due, it.stale = due, !rec.Stale.IsZero()
	key := laneKey{rec.Provider, it.stale}
	it.lane = q.lanes[key]
	if it.lane == nil {
		it.lane = &lane{key: key}
		q.lanes[key] = it.lane
	}
	heap.Push(&it.lane.line, it)
	return it
}

// take returns an item that is due at now and whose lane has room, and puts it
// out of the line; or nil and how long to wait until there is one, at most
// limit.
func (q *queue) take(now time.Time, limit time.Duration) (*item, time.Duration) {
	var first *lane
	for _, l := range q.lanes { // two for each provider in use
		switch {
		case len(l.line) == 0 || l.running >= q.width:
		case first == nil || l.line[0].due.Before(first.line[0].due):
			first = l
		}
	}
	if first == nil {
		return nil, limit
	}
	if wait := first.line[0].due.Sub(now); wait > 0 {
		return nil, min(wait, limit)
	}
	it := heap.Pop(&first.line).(*item)
	first.running++
	it.began, it.hastened = now, false
	return it, 0
}

// forget removes the item.
func (q *queue) forget(it *item) {
	delete(q.items, it.id)
	q.leave(it)
}

// leave takes the item out of its lane.
func (q *queue) leave(it *item) {
	l := it.lane
	if it.taken() {
		l.running--
	} else {
		heap.Remove(&l.line, it.place)
	}
	if l.running == 0 && len(l.line) == 0 {
		delete(q.lanes, l.key)
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
