package compat

import (
	"encoding/hex"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/metadata"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// golden compares a message, with its metadata, to the golden file of that
// name. The file holds what a reader sees, and the bytes.
func golden(t *testing.T, name string, m message, wire []byte, md metadata.MD) {
	t.Helper()
	var out strings.Builder
	for _, key := range slices.Sorted(maps.Keys(md)) {
		if strings.HasPrefix(key, "keymount-") || key == ":authority" {
			fmt.Fprintf(&out, "%s = %q\n", key, md[key])
		}
	}
	fmt.Fprintf(&out, "---\n%s---\n", m.text(t, wire))
	for line := range slices.Chunk(wire, 32) {
		out.WriteString(hex.EncodeToString(line) + "\n")
	}
	path := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), out.String()); diff != "" {
		t.Errorf("%s changed, which existing peers do not expect (-want +got):\n%s", path, diff)
	}
}
