// Package audit writes what becomes of secrets on a node, one JSON line for
// each event: who was given what, by whom, and why not. Each line carries the
// hash of the one before it, so that a log which was altered, or lacks lines,
// is told from one that was not (Verify).
//
// Where a Log is required, nothing is given to a pod that cannot be written
// down first: the event of a fetch is in the log before the secret reaches the
// volume.
package audit

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"k8s.io/klog/v2"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/trace"
)

const (
	backlog  = 4096            // events that may wait to be written
	patience = 5 * time.Second // for one to be written
	weight   = 16 << 20        // bytes of those, where nobody waits for them
	batch    = 256             // lines that are written at once
	most     = 1 << 20         // bytes from which on no line is added to those
)

// ErrNotWritten: an event is not in the log.
var ErrNotWritten = errors.New("the audit log cannot be written")

// A Sink takes whole lines. A write that fails leaves nothing of its lines.
type Sink interface {
	// Last returns the last line that the sink holds, without its end, or
	// nothing if it does not hold what was written.
	Last() ([]byte, error)
	Write(lines []byte) error
	Close() error
}

// Options change what New returns.
type Options struct {
	Node string // whose log it is
	// Key makes fingerprints comparable: those of one key are equal for equal
	// values. At least 32 random bytes.
	Key []byte
	// Required: what cannot be written down is refused.
	Required bool
}

// A Log writes events. It is safe for concurrent use, and has one goroutine,
// which ends with Close.
type Log struct {
	opts     Options
	sink     Sink
	queue    chan *entry
	done     chan struct{}
	failures atomic.Int64 // of writes, each of which may be of many events
	lost     atomic.Int64 // events since the last that was written
	waiting  atomic.Int64 // bytes of events in the queue

	closing sync.RWMutex
	closed  bool

	// Of the goroutine.
	sequence int64
	previous string
}

// An entry is an event on its way.
type entry struct {
	event   Event
	written chan error // has room for one
}

// New returns a log that goes on where the sink ends, and closes it with Close,
// or with an error. It writes the event Start; if that cannot be written now,
// the first line that can be says that one is missing.
func New(sink Sink, opts Options) (*Log, error) {
	l := &Log{opts: opts, sink: sink, queue: make(chan *entry, backlog), done: make(chan struct{}), previous: zeros}
	last, err := sink.Last()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("read the end of the audit log: %w", err), sink.Close())
	}
	if len(last) > 0 {
		var event Event
		if err := json.Unmarshal(last, &event); err != nil {
			return nil, errors.Join(errors.New("the last line of the audit log is no event: move the file away"), sink.Close())
		}
		l.sequence, l.previous = event.Sequence, hash(last)
	}
	go l.write()
	start := Event{Event: Start, Decision: Allow}
	if err := l.append(context.Background(), &start); err != nil {
		klog.ErrorS(err, "Audit log cannot be written", "required", opts.Required)
	}
	return l, nil
}

// zeros stand for the hash of the line before the first.
const zeros = "0000000000000000000000000000000000000000000000000000000000000000"

// hash is that of a line without its end.
func hash(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}

// Failures returns how many writes have failed, and how many events are not in
// the log and not told of there yet.
func (l *Log) Failures() (writes, lost int64) { return l.failures.Load(), l.lost.Load() }

// Close writes what waits, and closes the sink.
func (l *Log) Close() error {
	l.closing.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
	}
	l.closing.Unlock()
	<-l.done
	return l.sink.Close()
}

// note writes an event, about something that happened whether or not it can be
// written.
func (l *Log) note(ctx context.Context, e *Event) { _ = l.append(context.WithoutCancel(ctx), e) }

// gate writes an event, about something that must not happen otherwise.
func (l *Log) gate(ctx context.Context, e *Event) error {
	err := l.append(ctx, e)
	if err == nil || !l.opts.Required {
		return nil
	}
	return fmt.Errorf("%w, and it is required: %w", err, provider.ErrUnavailable)
}

// append waits until the event is written. It does not wait longer than a
// moment where it may get lost.
func (l *Log) append(ctx context.Context, e *Event) error {
	e.Time, e.Node, e.Trace = time.Now().UTC(), l.opts.Node, trace.ID(ctx)
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	next := &entry{*e, make(chan error, 1)}
	if err := l.enqueue(ctx, next); err != nil {
		l.lost.Add(1)
		return err
	}
	if !l.opts.Required {
		return nil
	}
	select {
	case err := <-next.written:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: no room within %v", ErrNotWritten, patience)
	}
}

func (l *Log) enqueue(ctx context.Context, next *entry) error {
	l.closing.RLock()
	defer l.closing.RUnlock()
	if l.closed {
		return fmt.Errorf("%w: it is closed", ErrNotWritten)
	}
	if !l.opts.Required {
		return l.offer(next)
	}
	l.waiting.Add(next.event.size())
	select {
	case l.queue <- next:
		return nil
	case <-ctx.Done():
		l.waiting.Add(-next.event.size())
		return fmt.Errorf("%w: %d events wait", ErrNotWritten, backlog)
	}
}

// offer puts an event into the queue if there is room for it now.
func (l *Log) offer(next *entry) error {
	if size := next.event.size(); l.waiting.Add(size) <= weight {
		select {
		case l.queue <- next:
			return nil
		default:
		}
	}
	l.waiting.Add(-next.event.size())
	return fmt.Errorf("%w: %d events wait, or %d bytes of them", ErrNotWritten, backlog, weight)
}

// write is the goroutine: it writes what waits, many lines at once.
func (l *Log) write() {
	defer close(l.done)
	for first := range l.queue {
		next := l.batch()
		next.add(first)
		for len(next.entries) < batch && len(next.lines) < most && len(l.queue) > 0 {
			e, ok := <-l.queue
			if !ok {
				break
			}
			next.add(e)
		}
		next.write()
	}
}

// A lot is what is written at once: all of it, or nothing.
type lot struct {
	log      *Log
	entries  []*entry
	lines    []byte
	sequence int64
	previous string
	lost     int64 // events that it tells of
}

// batch returns a lot that goes on where the log ends.
func (l *Log) batch() *lot { return &lot{log: l, sequence: l.sequence, previous: l.previous} }

// add puts an event after those that are there. One that has no line, or one
// which nobody could read again, is told so, and stops no other.
func (b *lot) add(e *entry) {
	b.log.waiting.Add(-e.event.size())
	e.event.Sequence, e.event.Previous = b.sequence+1, b.previous
	first := len(b.entries) == 0
	if first {
		e.event.Lost = b.log.lost.Swap(0)
	}
	line, err := json.Marshal(&e.event)
	if err == nil && len(line) >= maxLine {
		err = fmt.Errorf("the event has %d bytes, and a line at most %d: ask for less in one class", len(line), maxLine)
	}
	if err != nil {
		b.log.failures.Add(1)
		b.log.lost.Add(e.event.Lost + 1)
		e.written <- fmt.Errorf("%w: %w", ErrNotWritten, err)
		return
	}
	b.sequence, b.previous, b.lost = b.sequence+1, hash(line), b.lost+e.event.Lost
	b.lines = append(append(b.lines, line...), '\n')
	b.entries = append(b.entries, e)
}

// write writes the lot and tells everybody who waits.
func (b *lot) write() {
	if len(b.entries) == 0 {
		return
	}
	err := b.log.sink.Write(b.lines)
	if err != nil {
		b.log.failures.Add(1)
		b.log.lost.Add(b.lost + int64(len(b.entries)))
		err = fmt.Errorf("%w: %w", ErrNotWritten, err)
	} else {
		b.log.sequence, b.log.previous = b.sequence, b.previous
	}
	for _, e := range b.entries {
		e.written <- err
	}
}
