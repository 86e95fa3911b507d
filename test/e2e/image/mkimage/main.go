// Command mkimage writes a container image from files, for machines without a
// container engine:
//
//	go run ./image/mkimage -o keymount.tar -t keymount:dev \
//	    ../../bin/keymount-driver:/keymount-driver ../../bin/keymount-provider:/keymount-provider
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"

	"github.com/keymount/keymount/test/e2e/image"
)

func main() {
	var i image.Image
	flag.StringVar(&i.Reference, "t", "", "`name` of the image, with a tag")
	flag.StringVar(&i.Arch, "arch", "", "processor `architecture` of the files (default this machine's)")
	out := flag.String("o", "image.tar", "archive `file` to write")
	flag.Parse()
	if err := write(&i, *out, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "mkimage:", err)
		os.Exit(1)
	}
}

func write(i *image.Image, out string, files []string) error {
	if i.Reference == "" || len(files) == 0 {
		return fmt.Errorf("usage: mkimage -o ARCHIVE -t NAME:TAG FILE:PATH")
	}
	for _, file := range files {
		source, path, ok := strings.Cut(file, ":")
		if !ok {
			return fmt.Errorf("%q is not FILE:PATH", file)
		}
		i.Files = append(i.Files, image.File{Path: path, Source: source})
	}
	return i.WriteFile(out)
}
