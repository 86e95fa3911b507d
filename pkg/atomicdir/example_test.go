package atomicdir_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/keymount/keymount/pkg/atomicdir"
)

func ExampleWrite() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	files := []atomicdir.File{
		{Path: "user", Mode: 0o644, Data: []byte("postgres")},
		{Path: "tls/key.pem", Mode: 0o600, Data: []byte("...")},
	}
	fmt.Println(atomicdir.Write(dir, files, nil))
	fmt.Println(atomicdir.Write(dir, files, nil))

	link, err := os.Readlink(filepath.Join(dir, "tls"))
	fmt.Println("tls ->", link, err)
	// Output:
	// true <nil>
	// false <nil>
	// tls -> ..data/tls <nil>
}

func ExampleValidPath() {
	fmt.Println(atomicdir.ValidPath("tls/key.pem"))
	fmt.Println(atomicdir.ValidPath("../../etc/shadow"))
	// Output:
	// <nil>
	// invalid file "../../etc/shadow": an element of the path starts with ".."
}
