package publish

import (
	"os"

	"github.com/keymount/keymount/pkg/tmpfs"
)

// A Mounter provides the memory file system of a volume. It is safe for
// concurrent use on different targets.
type Mounter interface {
	// Mounted returns the identity of the mount at target; zero if nothing is
	// mounted there. The error wraps tmpfs.ErrCorrupted if what is mounted
	// there is beyond use.
	Mounted(target string) (uint64, error)
	// Mount makes sure that target is exactly one memory file system with the
	// options, and returns its identity. It creates the directory. Kept says
	// that the memory file system was there before the call, with its files.
	// On error neither a new mount nor a new directory is left.
	Mount(target string, opts tmpfs.Options) (id uint64, kept bool, err error)
	// Open opens the root directory of the mount of that identity at target,
	// and of no other.
	Open(target string, id uint64) (*os.File, error)
	// Unmount removes every mount at target, lazily as the last resort, and
	// the directory. Gone is success.
	Unmount(target string) error
}
