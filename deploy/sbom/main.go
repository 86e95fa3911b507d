// Command sbom writes down what programs are made of: for each, a CycloneDX
// document of the modules that it says itself it was linked from. The same
// program gives the same bytes, whoever writes them, when and where.
//
//	go run ./deploy/sbom -version=v1.2.3 bin/keymount-driver   # writes bin/keymount-driver.cdx.json
package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

// suffix is that of the documents, by which tools know them.
const suffix = ".cdx.json"

func main() {
	version := flag.String("version", "v0.0.0-dev", "the `version` that the programs were built as")
	flag.Parse()
	for _, program := range flag.Args() {
		if err := write(program, *version); err != nil {
			fmt.Fprintf(os.Stderr, "sbom of %s: %v\n", program, err)
			os.Exit(1)
		}
	}
}

// write writes the document of a program beside it.
func write(program, version string) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	text, err := describe(filepath.Base(program), version, content)
	if err != nil {
		return err
	}
	return os.WriteFile(program+suffix, text, 0o644)
}

// describe returns the document of a program.
func describe(name, version string, content []byte) ([]byte, error) {
	info, err := buildinfo.Read(bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(content)
	text, err := json.MarshalIndent(newDocument(name, version, hex.EncodeToString(sum[:]), info), "", "  ")
	return append(text, '\n'), err
}
