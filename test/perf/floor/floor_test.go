package floor

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/keymount/keymount/pkg/tmpfs/userns"
)

func TestMain(m *testing.M) { os.Exit(userns.Main(m)) }

func TestAVolumeLivesAsOneOfTheDriverDoes(t *testing.T) {
	target := filepath.Join(t.TempDir(), "volume")
	if err := Publish(target, 3); err != nil {
		t.Fatal(err)
	}
	for _, step := range []struct {
		content byte
		do      func() error
	}{{'1', func() error { return nil }}, {'2', func() error { return Rotate(target, 3) }}} {
		if err := step.do(); err != nil {
			t.Fatal(err)
		}
		found, err := filepath.Glob(filepath.Join(target, "secret-*"))
		if err != nil || len(found) != 3 {
			t.Fatalf("the volume has the files %q, %v, want 3", found, err)
		}
		for _, file := range found {
			got, err := os.ReadFile(file)
			if want := bytes.Repeat([]byte{step.content}, FileSize); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s holds %d bytes that begin with %.3q, %v", file, len(got), got, err)
			}
		}
	}
	if err := Unpublish(target); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after Unpublish, the target: %v, want that it does not exist", err)
	}
}
