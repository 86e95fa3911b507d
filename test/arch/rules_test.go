package arch

import (
	"fmt"
	"go/ast"
	"slices"
	"strings"
	"testing"
)

// maxFunction is the number of lines that a reader can hold at once.
const maxFunction = 70

// revealers are the folders that handle plaintext, apart from tests.
var revealers = []string{
	"pkg/secret",                // defines it
	"pkg/publish",               // writes files
	"pkg/plugin",                // the wire to and from providers
	"pkg/kube",                  // Secret sync
	"pkg/provider/providertest", // compares with canaries
	"providers",                 // credentials for backends
}

// environment lists the files below cmd that may read environment variables, and why.
var environment = map[string]string{}

// initializers lists the files that may have an init function, and why.
var initializers = map[string]string{}

func TestEveryPackageHasOneComment(t *testing.T) { report(t, packageComments(repository(t))) }

func packageComments(sources []*source) (violations []string) {
	comments := map[string][]string{}
	for _, s := range sources {
		dir := s.dir()
		comments[dir] = append(comments[dir], []string{}...)
		if s.AST.Doc != nil && !s.Generated {
			comments[dir] = append(comments[dir], s.Path)
		}
		if s.AST.Doc != nil && !s.Test && !s.Generated {
			want := "Package " + s.AST.Name.Name
			if s.AST.Name.Name == "main" {
				want = "Command "
			}
			if !strings.HasPrefix(s.AST.Doc.Text(), want) {
				violations = append(violations, fmt.Sprintf("%s: the package comment must begin with %q", s.Path, want))
			}
		}
	}
	for _, s := range sources {
		if s.Generated && s.AST.Doc != nil && len(comments[s.dir()]) == 0 { // protoc copies the comment of the .proto file
			comments[s.dir()] = []string{s.Path}
		}
	}
	for dir, files := range comments {
		if len(files) != 1 {
			violations = append(violations, fmt.Sprintf("%s has %d package comments, want one: %v", dir, len(files), files))
		}
	}
	slices.Sort(violations)
	return violations
}

func TestPlaintextIsRevealedWhereItIsMeant(t *testing.T) { report(t, revealViolations(repository(t))) }

func revealViolations(sources []*source) (violations []string) {
	for _, s := range sources {
		if s.Test || s.under(revealers...) {
			continue
		}
		ast.Inspect(s.AST, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Reveal" {
				violations = append(violations, s.at(sel)+": Reveal is called only in "+strings.Join(revealers, ", "))
			}
			return true
		})
	}
	return violations
}

func TestNothingBelowMainEndsTheProcess(t *testing.T) { report(t, exitViolations(repository(t))) }

func exitViolations(sources []*source) (violations []string) {
	for _, s := range sources {
		if s.Test || s.Generated || s.AST.Name.Name == "main" {
			continue
		}
		complain := func(what string, at ast.Node) {
			violations = append(violations, s.at(at)+": "+what+" ends the process: return an error")
		}
		for importPath, prefixes := range map[string][]string{
			"os": {"Exit"}, "syscall": {"Exit"}, "log": {"Fatal", "Panic"}, "k8s.io/klog/v2": {"Fatal", "Exit"}, "runtime": {"Goexit"},
		} {
			s.uses(importPath, func(name string, at ast.Node) {
				if slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
					complain(importPath+"."+name, at)
				}
			})
		}
		ast.Inspect(s.AST, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if f, ok := call.Fun.(*ast.Ident); ok && f.Name == "panic" {
					complain("panic", call)
				}
			}
			return true
		})
	}
	slices.Sort(violations)
	return violations
}

func TestNothingBelowMainReadsTheEnvironment(t *testing.T) {
	report(t, environmentViolations(repository(t)))
}

func environmentViolations(sources []*source) (violations []string) {
	for _, s := range sources {
		if s.Test || s.Generated || s.AST.Name.Name == "main" || environment[s.Path] != "" {
			continue
		}
		for _, importPath := range []string{"os", "syscall"} {
			s.uses(importPath, func(name string, at ast.Node) {
				if slices.Contains([]string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}, name) {
					violations = append(violations, s.at(at)+": "+importPath+"."+name+": settings come as fields of Options")
				}
			})
		}
	}
	return violations
}

func TestNoPackageHasAnInitFunction(t *testing.T) { report(t, initViolations(repository(t))) }

func initViolations(sources []*source) (violations []string) {
	for _, s := range sources {
		if s.Generated || initializers[s.Path] != "" {
			continue
		}
		for _, decl := range s.AST.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				violations = append(violations, s.at(f)+": init runs unasked: use a constructor")
			}
		}
	}
	return violations
}

func TestFunctionsAreShort(t *testing.T) { report(t, lengthViolations(repository(t))) }

func lengthViolations(sources []*source) (violations []string) {
	for _, s := range sources {
		if s.Generated {
			continue
		}
		for _, decl := range s.AST.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok {
				continue
			}
			if lines := s.fset.Position(f.End()).Line - s.fset.Position(f.Pos()).Line + 1; lines > maxFunction {
				violations = append(violations, fmt.Sprintf("%s: %s has %d lines, at most %d", s.at(f), f.Name.Name, lines, maxFunction))
			}
		}
	}
	return violations
}

func TestTestsNeitherSleepNorSkip(t *testing.T) { report(t, waitViolations(repository(t))) }

// waitViolations finds tests that wait for real time or that do not run.
// Sleeping is fine where testing/synctest makes time.
func waitViolations(sources []*source) (violations []string) {
	for _, s := range sources {
		if s.importName("testing") == "" && !s.Test {
			continue
		}
		if s.importName("testing/synctest") == "" {
			s.uses("time", func(name string, at ast.Node) {
				if name == "Sleep" {
					violations = append(violations, s.at(at)+": a test waits for the event, or uses testing/synctest")
				}
			})
		}
		ast.Inspect(s.AST, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
				violations = append(violations, s.at(sel)+": a test that cannot run where it should is a failure")
			}
			return true
		})
	}
	return violations
}
