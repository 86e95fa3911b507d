package main

import (
	"bytes"
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// database is one of a single vulnerability: in a function of strconv.
var database = map[string]string{
	"index/db.json":      `{"modified": "2026-01-01T00:00:00Z"}`,
	"index/modules.json": `[{"path": "stdlib", "vulns": [{"id": "GO-2026-0001", "modified": "2026-01-01T00:00:00Z"}]}]`,
	"ID/GO-2026-0001.json": `{"schema_version": "1.3.1", "id": "GO-2026-0001", "modified": "2026-01-01T00:00:00Z", "published": "2026-01-01T00:00:00Z",
		"summary": "made up", "details": "made up", "affected": [{
			"package": {"name": "stdlib", "ecosystem": "Go"}, "ranges": [{"type": "SEMVER", "events": [{"introduced": "0"}]}],
			"ecosystem_specific": {"imports": [{"path": "strconv", "symbols": ["Unquote"]}]}}],
		"database_specific": {"url": "https://pkg.go.dev/vuln/GO-2026-0001"}}`,
}

func TestWhatIsCalledFailsTheCheck(t *testing.T) {
	folder := files(t, database)
	server := serve(t)
	calls := program(t, `strconv.Unquote("")`)
	imports := program(t, `strconv.Itoa(1)`)
	for _, c := range []struct {
		name   string
		check  check
		want   string // in the output
		failed bool
	}{
		{"a call of what is vulnerable", check{dir: calls, database: "file://" + folder, required: true}, "GO-2026-0001", true},
		{"the same, by a database in the network", check{dir: calls, database: server}, "GO-2026-0001", true},
		{"an import without the call", check{dir: imports, database: "file://" + folder, required: true}, "checked ./... against file://", false},
		{"the same, by a database in the network", check{dir: imports, database: server}, "checked ./... against http://", false},
		{"a folder that is no database", check{dir: imports, database: "file://" + t.TempDir() + "/none"}, "no such file", true},
		{"a program that does not compile", check{dir: program(t, `strconv.None()`), database: "file://" + folder}, "undefined", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.check.packages = []string{"./..."}
			var out bytes.Buffer
			err := c.check.run(&out)
			if failed := err != nil; failed != c.failed || !strings.Contains(out.String(), c.want) {
				t.Errorf("run = %v, want a failure: %v; it printed, without %q:\n%s", err, c.failed, c.want, out.String())
			}
		})
	}
}

func TestADatabaseOutOfReachIsSaidAndFailsWhereItIsAskedFor(t *testing.T) {
	gone := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(gone.Close)
	const nobody = "http://127.0.0.1:1"
	for _, database := range []string{nobody, gone.URL} {
		var out bytes.Buffer
		err := check{database: database}.run(&out)
		want := "govulncheck: NOT CHECKED: the database " + database + " cannot be reached from here, so nothing is known of vulnerabilities\n"
		if err != nil || out.String() != want {
			t.Errorf("run = %v and printed %q, want nil and %q", err, out.String(), want)
		}
		out.Reset()
		if err := (check{database: database, required: true}).run(&out); err == nil || !strings.Contains(err.Error(), "GOVULNDB") || out.Len() > 0 {
			t.Errorf("run = %v and printed %q, want an error that names GOVULNDB", err, out.String())
		}
	}
}

// serve serves the database as https://vuln.go.dev does: compressed.
func serve(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, ok := database[strings.TrimSuffix(strings.TrimPrefix(r.URL.Path, "/"), ".gz")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		compressed := gzip.NewWriter(w)
		_, _ = io.WriteString(compressed, text)
		_ = compressed.Close()
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// program returns the folder of a module that evaluates an expression.
func program(t *testing.T, expression string) string {
	t.Helper()
	return files(t, map[string]string{
		"go.mod":  "module example.org/app\n\ngo 1.26\n",
		"main.go": "package main\n\nimport \"strconv\"\n\nfunc main() { " + expression + " }\n",
	})
}

// files returns a folder with files.
func files(t *testing.T, content map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range content {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
