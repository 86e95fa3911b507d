package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// publisher is the module that carries the schema of CycloneDX. It is not
// linked, only fetched.
const publisher = "github.com/CycloneDX/cyclonedx-go@v0.12.0"

func TestADocumentListsWhatTheProgramIsMadeOf(t *testing.T) {
	schema := officialSchema(t)
	dir := t.TempDir()
	command(t, "go", "build", "-trimpath", "-buildvcs=false", "-o", dir, "../../cmd/...")
	for _, name := range []string{"keymount", "keymount-driver", "keymount-provider"} {
		t.Run(name, func(t *testing.T) {
			program := filepath.Join(dir, name)
			first := documentOf(t, program)
			if again := documentOf(t, program); !bytes.Equal(first, again) {
				t.Error("the second document of the same program is another one")
			}
			value, err := jsonschema.UnmarshalJSON(bytes.NewReader(first))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(value); err != nil {
				t.Errorf("it is no CycloneDX 1.6: %v", err)
			}
			if diff := cmp.Diff(linked(t, program), listed(t, first)); diff != "" {
				t.Errorf("it lists other modules than `go version -m` (-linked +listed):\n%s", diff)
			}
		})
	}
}

// documentOf writes the document of a program and returns it.
func documentOf(t *testing.T, program string) []byte {
	t.Helper()
	if err := write(program, "v1.2.3"); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(program + suffix)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// linked returns the version and the sum of each module of a program, as `go
// version -m` prints them, and the version of Go.
func linked(t *testing.T, program string) map[string]string {
	t.Helper()
	first, rest, _ := strings.Cut(command(t, "go", "version", "-m", program), "\n")
	modules := map[string]string{"std": first[strings.LastIndex(first, " go")+len(" go"):] + " "}
	for line := range strings.Lines(rest) {
		if fields := strings.Fields(line); fields[0] == "dep" {
			modules[fields[1]] = fields[2] + " " + fields[3]
		}
	}
	if len(modules) < 20 {
		t.Fatalf("go version -m %s lists %d modules", program, len(modules))
	}
	return modules
}

// listed returns what linked does, of a document.
func listed(t *testing.T, text []byte) map[string]string {
	t.Helper()
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		t.Fatal(err)
	}
	modules := map[string]string{}
	for _, c := range d.Components {
		if modules[c.Name] != "" {
			t.Errorf("%s is listed twice", c.Name)
		}
		sum := ""
		for _, h := range c.Hashes {
			raw, err := hex.DecodeString(h.Content)
			if err != nil {
				t.Error(err)
			}
			sum += "h1:" + base64.StdEncoding.EncodeToString(raw)
		}
		modules[c.Name] = c.Version + " " + sum
	}
	return modules
}

// officialSchema returns the schema that the makers of CycloneDX publish.
func officialSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	var fetched struct{ Dir string }
	if err := json.Unmarshal([]byte(command(t, "go", "mod", "download", "-json", publisher)), &fetched); err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	for name, file := range map[string]string{
		"bom-1.6.schema.json": "bom-1.6.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json",
	} {
		text, err := os.ReadFile(filepath.Join(fetched.Dir, "schema", file))
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := compiler.AddResource("http://cyclonedx.org/schema/"+name, value); err != nil {
			t.Fatal(err)
		}
	}
	schema, err := compiler.Compile("http://cyclonedx.org/schema/bom-1.6.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// command runs a command and returns what it prints.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, stderr.String())
	}
	return string(out)
}

func TestTheModuleThatStandsForAnotherIsListed(t *testing.T) {
	own := &debug.Module{Path: "example.org/own", Version: "v1.0.0+incompatible", Sum: "h1:AAEC"}
	got := newDocument("app", "v1", "ab", &buildinfo.BuildInfo{
		GoVersion: "go1.2.3 X:runtimesecret", Path: "example.org/m/cmd/app", Main: debug.Module{Path: "example.org/m"},
		Deps: []*debug.Module{{Path: "example.org/theirs", Version: "v2.0.0", Sum: "h1:AAAA", Replace: own}},
	})
	want := "[pkg:golang/example.org/m@v1#cmd/app pkg:golang/std@1.2.3 pkg:golang/example.org/own@v1.0.0%2Bincompatible 000102]"
	var all []string
	for _, c := range append([]component{got.Metadata.Component}, got.Components...) {
		all = append(all, c.URL)
	}
	all = append(all, got.Components[1].Hashes[0].Content)
	if fmt.Sprint(all) != want {
		t.Errorf("it lists %v, want %s", all, want)
	}
}

func TestAFileThatIsNoProgramHasNoDocument(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("no program"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := write(file, "v1"); err == nil {
		t.Error("a document of a file that is no program was written")
	}
	if _, err := os.Stat(file + suffix); err == nil {
		t.Error("there is a document of a file that is no program")
	}
}
