// Package tmpfs mounts one memory file system per volume, by system call.
package tmpfs

// Options limit the memory file system of one volume.
type Options struct {
	Size   int64  // bytes
	Inodes int64  // files and directories
	Group  *int64 // group of its root directory; nil for root
}
