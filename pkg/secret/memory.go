package secret

import (
	"context"
	"runtime"
	"time"
	"unsafe"
)

// Do calls f. What f leaves in registers, on its stack and in memory that it
// allocates is erased, the latter once nothing refers to it: where the program
// was built with GOEXPERIMENT=runtimesecret. It holds for the goroutine that
// calls it, not for those that f starts.
func Do(f func()) { do(f) }

// smallest is the size from which on bytes have a block of memory to
// themselves: smaller ones share one, which has no finalizer of theirs.
const smallest = 16

// forgettable returns n bytes that are overwritten once nothing refers to them,
// to none of them: who has revealed a Value can use what that was for as long
// as it likes.
func forgettable(n int) []byte {
	block := make([]byte, max(n, smallest))
	runtime.SetFinalizer(unsafe.SliceData(block), func(first *byte) { clear(unsafe.Slice(first, max(n, smallest))) }) //nolint:gosec // the block, from its first byte
	made()
	return block[:n]
}

// wake tells Collect that there is something to collect.
var wake = make(chan struct{}, 1)

func made() {
	select {
	case wake <- struct{}{}:
	default:
	}
}

// Pause is that of Collect in the commands: a Value that is used no longer is in
// memory for two of them at most.
const Pause = 10 * time.Second

// Collect runs the garbage collector within the pause, and no more often, while
// Values are made, and once after the last, so that those which are used no
// longer are overwritten soon; a program that does little would keep them for
// minutes. It returns when ctx ends. One Collect is enough for a process.
func Collect(ctx context.Context, pause time.Duration) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-wake:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		runtime.GC() // those of the last moments may still be in use, and wake it once more
	}
}
