package image_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/keymount/keymount/test/e2e/image"
)

// write returns the archive of an image whose program has the time and mode.
func write(t *testing.T, when time.Time, mode os.FileMode) []byte {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	if err := errors.Join(os.WriteFile(program, []byte("#!/bin/true"), 0o600), os.Chmod(program, mode), os.Chtimes(program, when, when)); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	i := &image.Image{Reference: "example.org/app:1", Arch: "amd64", Files: []image.File{
		{Path: "/usr/bin/app", Source: program}, {Path: "/bin/sh", Link: "/usr/bin/app"}, {Path: "/tmp"},
	}}
	if err := i.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestTheSameFilesMakeTheSameImage(t *testing.T) {
	one, two := write(t, time.Unix(1, 0), 0o700), write(t, time.Now(), 0o755)
	if !bytes.Equal(one, two) {
		t.Error("archives of the same files differ with their times and modes")
	}
}

func TestTheLayerHasEachFolderOnceAndBeforeItsFiles(t *testing.T) {
	var got []string
	archive := tar.NewReader(bytes.NewReader(write(t, time.Now(), 0o755)))
	if _, err := archive.Next(); err != nil { // the layer is the first of the blobs
		t.Fatal(err)
	}
	for layer := tar.NewReader(archive); ; {
		h, err := layer.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, h.Name)
	}
	if want := []string{"usr/", "usr/bin/", "usr/bin/app", "bin/", "bin/sh", "tmp/"}; !slices.Equal(got, want) {
		t.Errorf("layer: %v, want %v", got, want)
	}
}

func TestAFailedImageLeavesNoFile(t *testing.T) {
	dir := t.TempDir()
	i := &image.Image{Reference: "example.org/app:1", Files: []image.File{{Path: "/app", Source: filepath.Join(dir, "missing")}}}
	if err := i.WriteFile(filepath.Join(dir, "image.tar")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("WriteFile: %v, want %v", err, os.ErrNotExist)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}
