package tmpfs_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/keymount/keymount/pkg/tmpfs"
)

// A volume's life. TestMain of this package has entered a mount namespace.
func ExampleMounter() {
	tmp, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	m, err := tmpfs.New()
	if err != nil {
		log.Fatal(err)
	}
	target := filepath.Join(tmp, "pods/1234/mount")

	id, kept, err := m.Mount(target, tmpfs.Options{Size: 1 << 20, Inodes: 64})
	if err != nil {
		log.Fatal(err)
	}
	dir, err := m.Open(target, id) // for atomicdir.WriteIn
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("mounted:", id != 0, "kept:", kept, "closed:", dir.Close())

	fmt.Println("unmount:", m.Unmount(target))
	now, err := m.Mounted(target)
	fmt.Println("afterwards:", now, err)
	// Output:
	// mounted: true kept: false closed: <nil>
	// unmount: <nil>
	// afterwards: 0 <nil>
}
