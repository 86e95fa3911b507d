package arch

import (
	"fmt"
	"go/ast"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// decoders are the functions that take bytes apart, by how their names begin.
var decoders = map[string][]string{
	"crypto/x509":                      {"Parse"},
	"encoding/asn1":                    {"Unmarshal"},
	"encoding/json":                    {"Unmarshal", "NewDecoder"},
	"encoding/pem":                     {"Decode"},
	"go.yaml.in/yaml/v2":               {"Unmarshal", "NewDecoder"},
	"google.golang.org/protobuf/proto": {"Unmarshal"},
	"net":                              {"SplitHostPort", "Parse"},
	"net/url":                          {"Parse"},
	"strconv":                          {"Parse", "Atoi"},
	"time":                             {"Parse"},
}

// unfuzzed lists the packages that decode and have no fuzz target, and why.
var unfuzzed = map[string]string{
	"cmd/keymount": "reads files of the person who runs it, and logs by pkg/audit",
	"pkg/sandbox":  "reads the profiles that are compiled into it",
}

func TestWhoDecodesForeignBytesIsFuzzed(t *testing.T) {
	sources := repository(t)
	report(t, fuzzViolations(sources))
	decoding := decodingPackages(sources)
	for dir, reason := range unfuzzed {
		if decoding[dir] == "" {
			t.Errorf("%s is listed (%s) and decodes nothing: remove it from test/arch/fuzz_test.go", dir, reason)
		}
	}
}

// fuzzViolations finds packages that decode and whose tests have no fuzz target
// at all. Whether each of their decoders is reached is for review.
func fuzzViolations(sources []*source) (violations []string) {
	fuzzed := map[string]bool{}
	for _, s := range sources {
		for _, decl := range s.AST.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && s.Test && strings.HasPrefix(f.Name.Name, "Fuzz") {
				fuzzed[s.dir()] = true
			}
		}
	}
	decoding := decodingPackages(sources)
	for _, dir := range slices.Sorted(maps.Keys(decoding)) {
		if !fuzzed[dir] && unfuzzed[dir] == "" {
			violations = append(violations, fmt.Sprintf("%s decodes: give its package a fuzz target, or a line in test/arch/fuzz_test.go", decoding[dir]))
		}
	}
	return violations
}

// decodingPackages returns the packages of the product that decode, each with
// one place. Stores in memory and other kits of tests are none.
func decodingPackages(sources []*source) map[string]string {
	found := map[string]string{}
	for _, s := range sources {
		if s.Test || s.Generated || !s.under("pkg", "providers", "cmd") || slices.ContainsFunc(strings.Split(s.dir(), "/"), isKit) {
			continue
		}
		for importPath, names := range decoders {
			s.uses(importPath, func(name string, at ast.Node) {
				if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(name, n) }) {
					found[s.dir()] = s.at(at) + ": " + importPath + "." + name
				}
			})
		}
	}
	return found
}

func isKit(folder string) bool { return strings.HasSuffix(folder, "test") }

func TestAFuzzTargetIsFound(t *testing.T) {
	decodes := library("encoding/json") + "\nvar x = json.Unmarshal\n"
	tree := fstest.MapFS{
		"pkg/node/x.go":      {Data: []byte(strings.Replace(decodes, "import _", "import", 1))},
		"pkg/node/x_test.go": {Data: []byte("package x\n\nfunc FuzzX() {}\n")},
	}
	if got := fuzzViolations(parseTree(t, tree)); len(got) != 0 {
		t.Errorf("violations = %q, want none", got)
	}
}
