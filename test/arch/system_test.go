package arch

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// mountUtils is the one library that reads the table of mounts. Its package
// has another name than its path.
const mountUtils = "k8s.io/mount-utils"

// spawner is the package that runs this program again, for `try` and tests.
const spawner = "pkg/tmpfs/userns"

// tableReaders lists the files that may read the table of mounts, and why. It
// has a line for every mount of the node: who reads it for each volume does
// work that grows with the square of their number.
var tableReaders = map[string]string{
	"pkg/tmpfs/adopt.go": "to repair a target that is a mount point already",
}

func TestNoCallForksAProcess(t *testing.T) { report(t, processViolations(repository(t))) }

func processViolations(sources []*source) (violations []string) {
	for _, s := range sources {
		if s.Test || !s.under("pkg") || s.dir() == spawner {
			continue
		}
		complain := func(what string, at ast.Node) {
			violations = append(violations, s.at(at)+": "+what+" is for "+spawner+" alone: a process costs more than a whole publish")
		}
		for _, spec := range s.AST.Imports {
			if spec.Path.Value == `"os/exec"` {
				complain("os/exec", spec)
			}
		}
		for _, importPath := range []string{"os", "syscall"} {
			s.uses(importPath, func(name string, at ast.Node) {
				if slices.Contains([]string{"StartProcess", "ForkExec", "Exec"}, name) {
					complain(importPath+"."+name, at)
				}
			})
		}
	}
	return violations
}

func TestTheTableOfMountsIsReadToRepairOnly(t *testing.T) {
	report(t, mountTableViolations(repository(t)))
}

func mountTableViolations(sources []*source) (violations []string) {
	for _, s := range sources {
		if s.Test || !s.under("pkg") || tableReaders[s.Path] != "" {
			continue
		}
		complain := func(what string, at ast.Node) {
			violations = append(violations, s.at(at)+": "+what+" reads all mounts of the node: use statx")
		}
		s.uses(mountUtils, func(name string, at ast.Node) {
			if name != "IsCorruptedMnt" { // looks at an error
				complain("mount."+name, at)
			}
		})
		ast.Inspect(s.AST, func(n ast.Node) bool {
			lit, ok := n.(*ast.BasicLit)
			if ok && lit.Kind == token.STRING && (strings.Contains(lit.Value, "mountinfo") || strings.Contains(lit.Value, "/mounts")) {
				complain(lit.Value, lit)
			}
			return true
		})
	}
	return violations
}
