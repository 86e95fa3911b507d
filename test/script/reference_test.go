package script

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// A flagHelp is what --help says of a flag.
type flagHelp struct{ fallback, usage string }

var (
	helpLine    = regexp.MustCompile(`(?m)^ +(?:-\w, )?(--[\w-]+)(?: \S+)?  +(.*)$`)
	helpDefault = regexp.MustCompile(`^(.*) \(default (.*)\)$`)
)

// flagsIn returns the flags in a text as pflag prints it.
func flagsIn(help string) map[string]flagHelp {
	flags := make(map[string]flagHelp)
	for _, line := range helpLine.FindAllStringSubmatch(help, -1) {
		f := flagHelp{usage: line[2]}
		if parts := helpDefault.FindStringSubmatch(line[2]); parts != nil {
			f = flagHelp{usage: parts[1], fallback: parts[2]}
		}
		flags[line[1]] = f
	}
	return flags
}

// The tables of docs/flags.md have exactly the flags of each command, their
// defaults, and what --help says of them; a row may add to that.
func TestFlagsAreDocumented(t *testing.T) {
	own, logging, ok := strings.Cut(output(t, "keymount-driver", "--help"), "Logging flags:")
	if !ok {
		t.Fatal("keymount-driver --help has no logging flags")
	}
	doc := read(t, "docs/flags.md")[0]
	for head, help := range map[string]string{
		"flag of keymount-driver":         own,
		"flag of keymount-provider":       output(t, "keymount-provider", "--help"),
		"flag of keymount-provider probe": output(t, "keymount-provider", "probe", "--help"),
		"flag of keymount try":            output(t, "keymount", "try", "--help"),
		"flag of keymount audit show":     output(t, "keymount", "audit", "show", "--help"),
	} {
		want := flagsIn(help)
		maps.DeleteFunc(want, func(name string, _ flagHelp) bool {
			_, klog := flagsIn(logging)[name]
			return klog || name == "--help"
		})
		got := make(map[string]flagHelp)
		for _, row := range doc.rows(head) {
			name, usage := code(row[0]), want[code(row[0])].usage
			if !strings.HasPrefix(row[2], usage) {
				t.Errorf("docs/flags.md: %s: the row says %q, --help says %q", name, row[2], usage)
			}
			got[name] = flagHelp{fallback: code(row[1]), usage: usage}
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(flagHelp{})); diff != "" {
			t.Errorf("%ss: --help (-) and docs/flags.md (+) differ:\n%s", head, diff)
		}
	}
}

// verb matches what fmt replaces.
var verb = regexp.MustCompile(`%[-+# 0]*[\d.*]*[a-zA-Z]`)

// gap stands for a verb in a message.
const gap = "\x00"

// message returns the text of a string literal with a gap for each verb, or of
// a sum of those with a gap for each other part.
func message(expr ast.Expr) string {
	switch e := expr.(type) {
	case *ast.BasicLit:
		if text, err := strconv.Unquote(e.Value); err == nil && e.Kind == token.STRING {
			return verb.ReplaceAllString(text, gap)
		}
	case *ast.BinaryExpr:
		if e.Op == token.ADD {
			return message(e.X) + message(e.Y)
		}
	}
	return gap
}

// messages returns the texts in the product.
func messages(t *testing.T) (all []string) {
	t.Helper()
	for _, top := range []string{"pkg", "providers", "cmd"} {
		err := filepath.WalkDir(filepath.Join(repository, top), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".pb.go") {
				return err
			}
			tree, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err != nil {
				return err
			}
			ast.Inspect(tree, func(n ast.Node) bool {
				if expr, ok := n.(ast.Expr); ok {
					all = append(all, message(expr))
				}
				return true
			})
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// Every error that docs/troubleshooting.md explains is one that the product
// has. "…" in the text stands for what changes from one case to the next.
func TestExplainedErrorsExist(t *testing.T) {
	all := messages(t)
	rows := read(t, "docs/troubleshooting.md")[0].rows("error")
	if len(rows) == 0 {
		t.Fatal("docs/troubleshooting.md explains no error")
	}
	for _, row := range rows {
		text := code(row[0])
		var parts []string
		for part := range strings.SplitSeq(text, "…") {
			if part = strings.TrimSpace(part); len(part) > 1 {
				parts = append(parts, part)
			}
		}
		if len(parts) == 0 || !slices.ContainsFunc(all, func(message string) bool { return hasInOrder(message, parts) }) {
			t.Errorf("docs/troubleshooting.md explains %q, which is no message of the product", text)
		}
		if len(row) != 3 || row[1] == "" || row[2] == "" {
			t.Errorf("docs/troubleshooting.md: %q needs what it means and what to do: %q", text, row)
		}
	}
}

// hasInOrder reports whether the parts follow one another in the message.
func hasInOrder(message string, parts []string) bool {
	for _, part := range parts {
		_, rest, ok := strings.Cut(message, part)
		if !ok {
			return false
		}
		message = rest
	}
	return true
}
