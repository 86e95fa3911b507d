package arch

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// module is the path of the product's module.
const module = "github.com/keymount/keymount"

// A source is one Go file, whatever its build constraints.
type source struct {
	Path      string // slash-separated, from the top of the repository
	Test      bool
	Generated bool
	AST       *ast.File
	fset      *token.FileSet
}

// dir returns the folder of the file, which names its package.
func (s *source) dir() string { return path.Dir(s.Path) }

// under reports whether the file is in one of the folders or below.
func (s *source) under(folders ...string) bool {
	return slices.ContainsFunc(folders, func(f string) bool { return strings.HasPrefix(s.Path, f+"/") })
}

// at returns file:line of a node.
func (s *source) at(n ast.Node) string {
	return s.Path + ":" + strconv.Itoa(s.fset.Position(n.Pos()).Line)
}

// imports returns the import paths of the file.
func (s *source) imports() []string {
	var paths []string
	for _, spec := range s.AST.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		paths = append(paths, p)
	}
	return paths
}

// importName returns the identifier under which the file knows the package, or "".
func (s *source) importName(importPath string) string {
	for _, spec := range s.AST.Imports {
		p, _ := strconv.Unquote(spec.Path.Value)
		switch {
		case p != importPath:
		case spec.Name != nil:
			return spec.Name.Name
		case p == mountUtils:
			return "mount"
		default:
			return path.Base(strings.TrimSuffix(p, "/v2"))
		}
	}
	return ""
}

// uses calls report for each selector pkg.name in the file.
func (s *source) uses(importPath string, report func(name string, at ast.Node)) {
	local := s.importName(importPath)
	if local == "" {
		return
	}
	ast.Inspect(s.AST, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && x.Name == local {
				report(sel.Sel.Name, sel)
			}
		}
		return true
	})
}

// parseTree parses every Go file of the product's module below root.
func parseTree(t *testing.T, root fs.FS) []*source {
	t.Helper()
	var sources []*source
	fset := token.NewFileSet()
	err := fs.WalkDir(root, ".", func(p string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return skipDir(root, p)
		case path.Ext(p) != ".go":
			return nil
		}
		text, err := fs.ReadFile(root, p)
		if err != nil {
			return err
		}
		file, err := parser.ParseFile(fset, p, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		sources = append(sources, &source{p, strings.HasSuffix(p, "_test.go"), ast.IsGenerated(file), file, fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return sources
}

// skipDir skips the folders that the go command skips, and other modules.
func skipDir(root fs.FS, p string) error {
	base := path.Base(p)
	_, err := fs.Stat(root, path.Join(p, "go.mod"))
	if p != "." && (err == nil || base == "testdata" || strings.HasPrefix(base, ".") || strings.HasPrefix(base, "_")) {
		return fs.SkipDir
	}
	return nil
}

// repository returns the parsed product.
func repository(t *testing.T) []*source {
	t.Helper()
	sources := parseTree(t, os.DirFS("../.."))
	if len(sources) < 10 {
		t.Fatalf("found only %d Go files: is this the top of the repository?", len(sources))
	}
	return sources
}

// report fails the test for each violation of a rule.
func report(t *testing.T, violations []string) {
	t.Helper()
	for _, v := range violations {
		t.Error(v)
	}
}
