package cluster

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/keymount/keymount/test/e2e/image"
)

// busybox is the one program of an image that is not built here.
const busybox = "/bin/busybox"

// authorities are the certificate authorities of the machine, which the image
// of the product has too.
const authorities = "/etc/ssl/certs/ca-certificates.crt"

// pause is the image of the container that holds a pod's network.
const pause = "e2e.test/pause:1"

// A named image has the name under which tests know it.
type named struct {
	name string
	image.Image
}

// images returns the images that the tests use.
func images(l layout) []named {
	programs := func(names ...string) (files []image.File) {
		for _, name := range names {
			files = append(files, image.File{Path: "/" + name, Source: l.bin(name)})
		}
		return files
	}
	return []named{
		{"pause", image.Image{
			Reference: pause, Entrypoint: []string{"/busybox", "sleep", "2147483647"},
			Files: []image.File{{Path: "/busybox", Source: busybox}},
		}},
		{"busybox", image.Image{
			Reference: "e2e.test/busybox:1", Env: []string{"PATH=/bin"},
			Files: []image.File{{Path: "/tmp"}, {Path: busybox, Source: busybox}},
		}},
		{"keymount", image.Image{
			Reference: "e2e.test/keymount:1",
			Files:     append(programs("keymount-driver", "keymount-provider"), image.File{Path: authorities, Source: authorities, Mode: 0o644}),
		}},
		{"mockprovider", image.Image{Reference: "e2e.test/mockprovider:1", Entrypoint: []string{"/mockprovider"}, Files: programs("mockprovider")}},
		{"upstream", image.Image{ // it calls mount(8) and umount(8)
			Reference: "e2e.test/upstream:1", Env: []string{"PATH=/bin"},
			Files: append(programs(filepath.Base(upstreamDriver), "registrar"),
				image.File{Path: busybox, Source: busybox}, image.File{Path: "/bin/mount", Link: busybox}, image.File{Path: "/bin/umount", Link: busybox}),
		}},
	}
}

func writeImages(ctx context.Context, l layout) error {
	if err := os.MkdirAll(filepath.Dir(l.archive("x")), 0o755); err != nil {
		return err
	}
	applets, err := exec.CommandContext(ctx, busybox, "--list").Output()
	if err != nil {
		return fmt.Errorf("%s --list: %w", busybox, err)
	}
	for _, i := range images(l) {
		if i.name == "busybox" {
			for applet := range strings.FieldsSeq(string(applets)) {
				if applet != "busybox" {
					i.Files = append(i.Files, image.File{Path: "/bin/" + applet, Link: busybox})
				}
			}
		}
		if err := i.WriteFile(l.archive(i.name)); err != nil {
			return err
		}
	}
	return nil
}
