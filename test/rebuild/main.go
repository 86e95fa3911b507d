// Command rebuild builds the product twice, from copies of this work tree in
// two folders, with `make sbom`. The first build takes what the cache of this
// user has, the second has an empty cache of its own. Both must give the same
// bytes: then what was built elsewhere, or before, can be checked by whoever
// has the source, and nothing of this machine is in it.
//
//	go run ./test/rebuild -version=v1.2.3
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	version := flag.String("version", "v0.0.0-dev", "the `version` to build as")
	flag.Parse()
	if err := run(*version); err != nil {
		fmt.Fprintf(os.Stdout, "rebuild: FAILED: %v\n", err)
		os.Exit(1)
	}
}

func run(version string) error {
	scratch, err := os.MkdirTemp("", "rebuild-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	first, second := filepath.Join(scratch, "a"), filepath.Join(scratch, "second", "of two")
	if err := build(first, version); err != nil {
		return err
	}
	if err := build(second, version, "GOCACHE="+filepath.Join(scratch, "cache")); err != nil {
		return err
	}
	same, err := compare(filepath.Join(first, "bin"), filepath.Join(second, "bin"))
	if err != nil {
		return err
	}
	fmt.Printf("rebuild: %d files are the same in two builds:\n%s", strings.Count(same, "\n"), same)
	return nil
}

// build copies the work tree to a folder and builds it there.
func build(folder, version string, env ...string) error {
	list, err := exec.Command("git", "ls-files", "-z", "-co", "--exclude-standard").Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(list), "\x00"), "\x00") {
		text, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) { // removed, and not committed yet
			continue
		}
		path := filepath.Join(folder, name)
		if err == nil {
			err = errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, text, 0o644))
		}
		if err != nil {
			return err
		}
	}
	cmd := exec.Command("make", "--no-print-directory", "--silent", "sbom", "VERSION="+version)
	cmd.Dir, cmd.Env = folder, append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make sbom: %w\n%s", err, out)
	}
	return nil
}

// compare returns the names of the files of both folders with their SHA-256,
// or what is not the same.
func compare(first, second string) (same string, err error) {
	one, err := files(first)
	if err != nil {
		return "", err
	}
	two, err := files(second)
	switch {
	case err != nil:
		return "", err
	case len(one) == 0:
		return "", errors.New("nothing was built")
	case !slices.Equal(slices.Sorted(maps.Keys(one)), slices.Sorted(maps.Keys(two))):
		return "", fmt.Errorf("one build gave %v, the other %v", slices.Sorted(maps.Keys(one)), slices.Sorted(maps.Keys(two)))
	}
	for _, name := range slices.Sorted(maps.Keys(one)) {
		if !bytes.Equal(one[name], two[name]) {
			return "", fmt.Errorf("%s is %d bytes in one build and %d in the other, and not the same", name, len(one[name]), len(two[name]))
		}
		same += fmt.Sprintf("%x  %s\n", sha256.Sum256(one[name]), name)
	}
	return same, nil
}

// files returns the files of a folder by their names.
func files(folder string) (map[string][]byte, error) {
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	content := map[string][]byte{}
	for _, entry := range entries {
		if content[entry.Name()], err = os.ReadFile(filepath.Join(folder, entry.Name())); err != nil {
			return nil, err
		}
	}
	return content, nil
}
