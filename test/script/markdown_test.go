package script

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// documents are the texts that a reader of the repository follows.
var documents = []string{"README.md", "CONTRIBUTING.md", "docs/*.md", "docs/providers/*.md", "examples/*/README.md"}

// A document is one Markdown file.
type document struct {
	name string // from the top of the repository
	text string
}

// read returns the documents that match the patterns.
func read(t *testing.T, patterns ...string) (docs []document) {
	t.Helper()
	for _, pattern := range patterns {
		paths, err := filepath.Glob(filepath.Join(repository, pattern))
		if err != nil || len(paths) == 0 {
			t.Fatalf("documents %s: found %d, error %v", pattern, len(paths), err)
		}
		for _, path := range paths {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			name, err := filepath.Rel(repository, path)
			if err != nil {
				t.Fatal(err)
			}
			docs = append(docs, document{name, string(text)})
		}
	}
	return docs
}

// A block is code in a document: fenced, with the word behind the fence, or
// indented, without one.
type block struct {
	language string
	text     string
	line     int // of its first line, in the document
}

// blocks returns the code blocks of the document in their order.
func (d document) blocks() (found []block) {
	var fence string // that ends the open block
	indented := false
	for i, line := range strings.Split(d.text, "\n") {
		trimmed := strings.TrimSpace(line)
		code, isCode := strings.CutPrefix(line, "    ")
		switch {
		case fence != "" && trimmed == fence:
			fence = ""
		case fence != "":
			found[len(found)-1].text += line + "\n"
		case strings.HasPrefix(trimmed, "```"):
			fence, indented = "```", false
			found = append(found, block{language: strings.TrimPrefix(trimmed, "```"), line: i + 2})
		case isCode && trimmed != "":
			if !indented {
				found = append(found, block{line: i + 1})
			}
			indented = true
			found[len(found)-1].text += code + "\n"
		default:
			indented = false
		}
	}
	return found
}

// rows returns the cells of the tables of the document, without heads: those
// of the tables whose first head is as given.
func (d document) rows(head string) (rows [][]string) {
	var inTable, wanted bool
	for line := range strings.Lines(d.text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "|") {
			inTable = false
			continue
		}
		cells := strings.Split(strings.ReplaceAll(strings.Trim(line, "|"), `\|`, "\x00"), "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(strings.ReplaceAll(cells[i], "\x00", "|"))
		}
		switch {
		case !inTable:
			inTable, wanted = true, cells[0] == head
		case wanted && !strings.HasPrefix(cells[0], "---"):
			rows = append(rows, cells)
		}
	}
	return rows
}

// code returns the text of the code span with which a cell begins.
func code(cell string) string {
	_, rest, _ := strings.Cut(cell, "`")
	span, _, _ := strings.Cut(rest, "`")
	return span
}

// match reports whether text has the lines of pattern, in which "..." stands
// for any text, and alone on a line for any lines.
func match(pattern, text string) bool {
	var expr strings.Builder
	expr.WriteString(`^`)
	for line := range strings.SplitSeq(strings.TrimRight(pattern, "\n"), "\n") {
		if strings.TrimSpace(line) == "..." {
			expr.WriteString(`(?:.*\n)*`)
			continue
		}
		expr.WriteString(strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(line, " ")), `\.\.\.`, `.*`) + ` *\n`)
	}
	expr.WriteString(`$`)
	if text = strings.TrimRight(text, "\n"); text != "" {
		text += "\n"
	}
	if strings.TrimSpace(pattern) == "" {
		return text == ""
	}
	return regexp.MustCompile(expr.String()).MatchString(text)
}

func TestMatch(t *testing.T) {
	for _, test := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "", true},
		{"", "a\n", false},
		{"a\n", "a\n", true},
		{"a\n", "a", true},
		{"a\n", "a\nb\n", false},
		{"a\n...\n", "a\n", true},
		{"a\n...\n", "a\nb\nc\n", true},
		{"a\n...\nc\n", "a\nb\nc\n", true},
		{"a\n...\nc\n", "a\nb\n", false},
		{"a ... c\n", "a b c\n", true},
		{"a ... c\n", "a b\nc\n", false},
		{"a.c\n", "abc\n", false},
	} {
		if got := match(test.pattern, test.text); got != test.want {
			t.Errorf("match(%q, %q) = %v, want %v", test.pattern, test.text, got, test.want)
		}
	}
}
