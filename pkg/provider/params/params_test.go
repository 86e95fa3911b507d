package params_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/params"
)

// object has a field of every type that a parameter can have.
type object struct {
	Name     string          `param:"objectName"`
	Mode     params.Mode     `param:"filePermission"`
	Encoding params.Encoding `param:"encoding"`
	Optional bool            `param:"optional"`
	History  int             `param:"objectVersionHistory"`
	Paths    []path          `param:"jmesPath"`
	Failover *path           `param:"failoverObject"`
	Args     any             `param:"secretArgs"`
	local    int             //nolint:unused // what the test is about: a field without a tag
}

type path struct {
	Path string `param:"path"`
}

var ignoreLocal = cmp.AllowUnexported(object{})

func objects(text string) ([]object, error) {
	return params.Objects[object](map[string]string{"objects": text}, "objects")
}

func TestObjectsAcceptsEverySpelling(t *testing.T) {
	one := []object{{Name: "a"}}
	for _, test := range []struct {
		name, in string
		want     []object
	}{
		{"a list of maps", "- objectName: a", one},
		{"a list of quoted maps", `- "objectName": "a"`, one},
		{"a list in flow style", `[{objectName: a}]`, one},
		{"JSON", `[{"objectName": "a"}]`, one},
		{"a list under array", "array:\n- objectName: a", one},
		{"items that are strings of YAML", "array:\n- |\n  objectName: a", one},
		{"items that are strings in a plain list", "- |\n  objectName: a", one},
		{"fields in any case", "- ObjectName: a", one},
		{"a field without a value is not set", "- objectName: a\n  encoding:\n  optional: ~\n  jmesPath: null", one},
		{"a number is text as it is written", "- objectName: 0123", []object{{Name: "0123"}}},
		{"a version is text as it is written", "- objectName: 1.10", []object{{Name: "1.10"}}},
		{"yes is text", "- objectName: yes", []object{{Name: "yes"}}},
		{"a date is text", "- objectName: 2026-01-02", []object{{Name: "2026-01-02"}}},
		{"a star inside of text is no alias", `- {objectName: "*.json"}`, []object{{Name: "*.json"}}},
		{"booleans and numbers, quoted or not", `- {optional: "true", objectVersionHistory: "5"}`, []object{{Optional: true, History: 5}}},
		{"nested lists and structs", "- jmesPath: [{path: x}, {path: y}]\n  failoverObject: {path: z}",
			[]object{{Paths: []path{{"x"}, {"y"}}, Failover: &path{"z"}}}},
		{"free content", "- secretArgs: {ttl: 1h, on: true, list: [a, ~]}",
			[]object{{Args: map[string]any{"ttl": "1h", "on": true, "list": []any{"a", nil}}}}},
		{"several", "- objectName: a\n- objectName: b", []object{{Name: "a"}, {Name: "b"}}},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := objects(test.in)
			if diff := cmp.Diff(test.want, got, ignoreLocal); err != nil || diff != "" {
				t.Errorf("Objects(%q): error %v, -want +got\n%s", test.in, err, diff)
			}
		})
	}
}

func TestObjectsSaysWhereAndWhat(t *testing.T) {
	const canary = "c4n4ry"
	for _, test := range []struct{ name, in, want string }{
		{"an unknown field names the nearest", "- objectName: a\n- objctName: c4n4ry", `objects[1]: unknown field "objctName", did you mean "objectName"?: invalid`},
		{"an unknown field in a string", "array: ['objectname2: c4n4ry']", `objects[0]: unknown field "objectname2", did you mean "objectName"?: invalid`},
		{"an unknown nested field", "- jmesPath: [{path: x}, {pth: c4n4ry}]", `objects[0].jmesPath[1]: unknown field "pth", did you mean "path"?: invalid`},
		{"a field unlike any lists those there are", "- failoverObject: {zzzzzz: c4n4ry}", `objects[0].failoverObject: unknown field "zzzzzz" (there is path): invalid`},
		{"a field without a tag does not exist", "- local: 1", `objects[0]: unknown field "local" (there is objectName, filePermission, encoding, optional, objectVersionHistory, jmesPath, failoverObject, secretArgs): invalid`},
		{"a field twice", "- objectName: a\n  objectName: c4n4ry", `objects[0] sets "objectName" twice: invalid`},
		{"a field twice in different case", "- objectName: a\n  objectname: c4n4ry", `objects[0] sets "objectName" twice: invalid`},
		{"a key twice in free content", "- secretArgs: {a: 1, a: c4n4ry}", `objects[0].secretArgs sets a key twice: invalid`},
		{"a list for text", "- objectName: [c4n4ry]", `objects[0].objectName is a list, want a single value: invalid`},
		{"a map for a mode", "- filePermission: {a: c4n4ry}", `objects[0].filePermission is a map, want a single value: invalid`},
		{"text for a bool", "- optional: c4n4ry", `objects[0].optional: want true or false: invalid`},
		{"text for a number", "- objectVersionHistory: c4n4ry", `objects[0].objectVersionHistory: want a whole number: invalid`},
		{"text for a list", "- jmesPath: c4n4ry", `objects[0].jmesPath is text, want a list: invalid`},
		{"text for a struct", "- failoverObject: c4n4ry", `objects[0].failoverObject is text, want fields: invalid`},
		{"a malformed mode", "- filePermission: c4n4ry", `objects[0].filePermission: want permission bits up to 0777 in octal, such as 0640 or "0640": invalid`},
		{"an unknown encoding", "- encoding: c4n4ry", `objects[0].encoding: invalid encoding type. Should be utf-8, base64, or hex: invalid`},
		{"an item that is text", "- c4n4ry", `objects[0] is text, want fields: invalid`},
		{"an item that is empty", "- objectName: a\n-", `objects[1] is empty, want fields: invalid`},
		{"an item of broken YAML", "- 'objectName: [c4n4ry'", `objects[0]: not valid YAML near line 1: invalid`},
		{"broken YAML", "- objectName: a\n\t- c4n4ry", `parameter "objects": not valid YAML near line 2: invalid`},
		{"a bare star", "- objectName: *", `parameter "objects": not valid YAML (a value that begins with * needs quotes): invalid`},
		{"a field without a name", "- ? \n  : c4n4ry", `parameter "objects": not valid YAML: invalid`},
		{"text", "c4n4ry", `parameter "objects" is text, want a list: invalid`},
		{"a map that is no array", "objectName: c4n4ry", `parameter "objects" is a map, want a list: invalid`},
		{"array among others", "array: []\nother: c4n4ry", `parameter "objects" is a map, want a list: invalid`},
		{"nothing", "", `parameter "objects" lists nothing: invalid`},
		{"an empty list", "[]", `parameter "objects" lists nothing: invalid`},
		{"an empty array", "array:", `parameter "objects" lists nothing: invalid`},
		{"two documents", "- objectName: a\n---\n- objectName: c4n4ry", `parameter "objects": contains more than one YAML document: invalid`},
		{"an alias", "- &x {objectName: c4n4ry}\n- *x", `parameter "objects": contains a YAML alias (*name), which is refused; write the value out: invalid`},
		{"an alias with an odd name", "- &-x {objectName: c4n4ry}\n- *-x", `parameter "objects": contains a YAML alias (*name), which is refused; write the value out: invalid`},
		{"a merge", "- &x {objectName: c4n4ry}\n- {<<: *x}", `parameter "objects": contains a YAML alias (*name), which is refused; write the value out: invalid`},
		{"UTF-16", "\xff\xfe-\x00 \x00*\x00x\x00", `parameter "objects": contains text that is not UTF-8: invalid`},
		{"a huge text", "- objectName: c4n4ry" + strings.Repeat(" ", params.MaxSize), `parameter "objects": longer than 1 MiB: invalid`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := objects(test.in)
			if err == nil || err.Error() != test.want {
				t.Fatalf("Objects() = %v, %v, want error %q", got, err, test.want)
			}
			if !errors.Is(err, provider.ErrInvalid) || strings.Contains(err.Error(), canary) {
				t.Errorf("error %q must be ErrInvalid and quote no content", err)
			}
		})
	}
}

func TestObjectsNamesTheParameterThatWasProbablyMeant(t *testing.T) {
	_, err := params.Objects[object](map[string]string{"object": "- objectName: a"}, "objects")
	want := `parameter "objects" is missing, did you mean "object"?: invalid`
	if err == nil || err.Error() != want {
		t.Errorf("Objects() error = %v, want %s", err, want)
	}
}

func TestUnknownFieldsMayBeIgnored(t *testing.T) {
	type lenient struct {
		Name string   `param:"objectName"`
		_    struct{} `param:"*"`
	}
	got, err := params.Objects[lenient](map[string]string{"objects": "- {objectName: a, colour: {of: sky}, \"*\": x}"}, "objects")
	if diff := cmp.Diff([]lenient{{Name: "a"}}, got, cmp.AllowUnexported(lenient{})); err != nil || diff != "" {
		t.Errorf("error %v, -want +got\n%s", err, diff)
	}
	if _, err := params.Objects[lenient](map[string]string{"objects": "- {objectName: a, ObjectName: b}"}, "objects"); !errors.Is(err, provider.ErrInvalid) {
		t.Errorf("a field twice: error %v, want ErrInvalid", err)
	}
	if _, err := params.Objects[lenient](map[string]string{"objects": "[]"}, "objects"); !errors.Is(err, params.ErrNone) {
		t.Errorf("an empty list: error %v, want ErrNone", err)
	}
}

func TestMode(t *testing.T) {
	for in, want := range map[string]params.Mode{
		`0640`: 0o640, `0o640`: 0o640, `416`: 0o640, `420`: 0o644, `"0640"`: 0o640, `'640'`: 0o640, `"0o640"`: 0o640,
		`"420"`: 0o420, `0777`: 0o777, `0001`: 0o001, `4`: 4, `!!str 640`: 0o640,
		`""`: 0, `01000`: 0, `04755`: 0, `"1777"`: 0, `512`: 0, `644`: 0, `0648`: 0, `-1`: 0, `+0640`: 0,
		`0x1a4`: 0, `6_4_0`: 0, `rw-r-----`: 0, `u=rw`: 0, `0640x`: 0, `" 0640"`: 0, `6.4`: 0, `true`: 0, `o640`: 0, `"00o640"`: 0,
		`99999999999999999999`: 0,
	} {
		got, err := objects("- filePermission: " + in)
		switch {
		case want == 0 && !errors.Is(err, provider.ErrInvalid):
			t.Errorf("mode %s: got %+v, error %v, want ErrInvalid", in, got, err)
		case want != 0 && (err != nil || got[0].Mode != want):
			t.Errorf("mode %s: got %+v, error %v, want %#o", in, got, err, want)
		}
	}
	for _, none := range []string{`0`, `00`, `"0000"`, `0o0`, `~`} {
		if got, err := objects("- objectName: a\n  filePermission: " + none); err != nil || got[0].Mode != 0 {
			t.Errorf("mode %s: got %+v, error %v, want none set", none, got, err)
		}
	}
	if got := params.Mode(0).Or(0o644); got != 0o644 {
		t.Errorf("Mode(0).Or(0644) = %#o", got)
	}
	if got := params.Mode(0o400).Or(0o644); got != 0o400 {
		t.Errorf("Mode(0400).Or(0644) = %#o", got)
	}
}

func TestEncoding(t *testing.T) {
	for _, test := range []struct {
		name     string
		encoding string
		in, want string
	}{
		{"utf-8 is the bytes as they are", "UTF-8", "\xff\x00 a\n", "\xff\x00 a\n"},
		{"standard base64", "base64", "+/+/YQ==", "\xfb\xff\xbfa"},
		{"base64 for URLs", "Base64", "-_-_YQ==", "\xfb\xff\xbfa"},
		{"base64 without padding", "BASE64", "+/+/YQ", "\xfb\xff\xbfa"},
		{"base64 in lines", "base64", " +/+/\r\n\tYQ==\n", "\xfb\xff\xbfa"},
		{"empty base64", "base64", "", ""},
		{"hex in either case", "Hex", "fF00\n", "\xff\x00"},
	} {
		t.Run(test.name, func(t *testing.T) {
			list, err := objects("- encoding: " + test.encoding)
			if err != nil {
				t.Fatal(err)
			}
			got, err := list[0].Encoding.Decode([]byte(test.in))
			if err != nil || string(got) != test.want {
				t.Errorf("Decode(%q) = %q, %v, want %q", test.in, got, err, test.want)
			}
		})
	}
}

func TestEncodingErrorsQuoteNothing(t *testing.T) {
	for in, encoding := range map[string]params.Encoding{
		"c4n4ry!": params.Base64, "c4n4r": params.Base64, "c4n4===": params.Base64, "c=4n": params.Base64,
		"c4n4ry": params.Hex, "c4n": params.Hex, "c4n4": "rot13",
	} {
		got, err := encoding.Decode([]byte(in))
		if !errors.Is(err, provider.ErrInvalid) || strings.Contains(err.Error(), "c4n") {
			t.Errorf("%s.Decode(%q) = %q, error %v, want ErrInvalid without content", encoding, in, got, err)
		}
	}
}

func TestDecodeReadsADocument(t *testing.T) {
	got, err := params.Decode[object]([]byte("objectName: a\nfilePermission: 0400"))
	if diff := cmp.Diff(object{Name: "a", Mode: 0o400}, got, ignoreLocal); err != nil || diff != "" {
		t.Errorf("error %v, -want +got\n%s", err, diff)
	}
	_, err = params.Decode[object]([]byte("objectNme: a"))
	if want := `document: unknown field "objectNme", did you mean "objectName"?: invalid`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
	_, err = params.Decode[object]([]byte("- a"))
	if want := `document is a list, want fields: invalid`; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}
