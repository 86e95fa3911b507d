package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// A target is a function FuzzX of the tests in a folder.
type target struct{ dir, name string }

func (t target) String() string { return t.dir + " " + t.name }

var declared = regexp.MustCompile(`(?m)^func (Fuzz[A-Za-z0-9_]*)\(`)

// find returns the targets of a module, in the order of their folders and files.
func find(module string) (targets []target, err error) {
	err = filepath.WalkDir(module, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != module && foreign(path, entry.Name()):
			return fs.SkipDir
		case entry.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range declared.FindAllSubmatch(text, -1) {
			targets = append(targets, target{filepath.Dir(path), string(match[1])})
		}
		return nil
	})
	return targets, err
}

// foreign reports whether what is in a folder does not belong to the module.
func foreign(path, name string) bool {
	_, err := os.Stat(filepath.Join(path, "go.mod"))
	return err == nil || name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_")
}
