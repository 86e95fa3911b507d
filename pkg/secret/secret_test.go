package secret_test

import (
	"bytes"
	"encoding/gob"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"k8s.io/klog/v2"
	"sigs.k8s.io/yaml"

	"github.com/keymount/keymount/pkg/secret"
)

const canary = "c4n4ry-9f2e"

// holder keeps values in every place that a printer might walk into.
type holder struct {
	Exported   secret.Value
	unexported secret.Value
	Pointer    *secret.Value
	Map        map[string]secret.Value
	Slice      []secret.Value
	Any        any
}

func newHolder() holder {
	v := secret.New([]byte(canary))
	return holder{v, v, &v, map[string]secret.Value{"k": v}, []secret.Value{v}, v}
}

// traces are the forms in which a careless printer would show the canary.
var traces = []string{
	canary,
	fmt.Sprintf("%x", canary), fmt.Sprintf("%X", canary),
	strings.Trim(fmt.Sprint([]byte(canary)), "[]"),
	fmt.Sprintf("%#v", []byte(canary))[len("[]byte{"):30],
	"YzRuNHJ5",
}

func mustNotLeak(t *testing.T, how, printed string) {
	t.Helper()
	for _, trace := range traces {
		if strings.Contains(printed, trace) {
			t.Errorf("%s shows the secret: %q", how, printed)
		}
	}
}

func TestPrintingShowsOnlyTheMask(t *testing.T) {
	h := newHolder()
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%08b", "%T %[1]p"} {
		for name, subject := range map[string]any{
			"value": h.Exported, "pointer": h.Pointer, "struct": h, "pointer to struct": &h,
			"error": fmt.Errorf("wrapped: %v", h), "map": h.Map, "slice": h.Slice,
		} {
			mustNotLeak(t, verb+" of "+name, fmt.Sprintf(verb, subject))
		}
	}
	if got := fmt.Sprintf("%#v", h.Exported); got != secret.Mask {
		t.Errorf("Sprintf(%%#v) = %q, want %q", got, secret.Mask)
	}
	if got := h.Exported.String(); got != secret.Mask {
		t.Errorf("String() = %q, want %q", got, secret.Mask)
	}
}

func TestLoggingShowsOnlyTheMask(t *testing.T) {
	var out bytes.Buffer
	h := newHolder()
	for _, handler := range []slog.Handler{slog.NewJSONHandler(&out, nil), slog.NewTextHandler(&out, nil)} {
		slog.New(handler).Info("publish", "value", h.Exported, "holder", h, "pointer", &h)
	}
	klog.LogToStderr(false)
	klog.SetOutput(&out)
	t.Cleanup(func() { klog.LogToStderr(true) })
	klog.InfoS("publish", "value", h.Exported, "holder", h, "pointer", &h)
	klog.Infof("%v %+v %#v", h, h, h)
	klog.Flush()
	mustNotLeak(t, "a log", out.String())
	if !strings.Contains(out.String(), secret.Mask) {
		t.Errorf("the logs do not show the mask: %s", out.String())
	}
}

func TestEncodingFails(t *testing.T) {
	h := newHolder()
	for name, subject := range map[string]any{"value": h.Exported, "struct": h, "map": h.Map, "slice": h.Slice} {
		if out, err := json.Marshal(subject); err == nil {
			t.Errorf("json.Marshal(%s) = %q, want an error", name, out)
		}
		if out, err := yaml.Marshal(subject); err == nil {
			t.Errorf("yaml.Marshal(%s) = %q, want an error", name, out)
		}
		if err := gob.NewEncoder(&bytes.Buffer{}).Encode(subject); err == nil {
			t.Errorf("gob encodes %s, want an error", name)
		}
	}
	// Reflection finds a func, which no encoder follows.
	if _, err := json.Marshal(struct{ V any }{h.Exported}); err == nil || strings.Contains(err.Error(), canary) {
		t.Errorf("json.Marshal of an interface: error %v", err)
	}
	if err := errors.Join(fmt.Errorf("%w: %v", errors.New("x"), h)); strings.Contains(err.Error(), canary) {
		t.Error("an error shows the secret")
	}
}

func TestEqualComparesBytes(t *testing.T) {
	var zero secret.Value
	for _, c := range []struct {
		name string
		a, b secret.Value
		want bool
	}{
		{"equal bytes are equal", secret.New([]byte("a")), secret.New([]byte("a")), true},
		{"other bytes are not", secret.New([]byte("a")), secret.New([]byte("b")), false},
		{"other lengths are not", secret.New([]byte("a")), secret.New([]byte("ab")), false},
		{"zero equals empty", zero, secret.New(nil), true},
		{"zero does not equal a byte", zero, secret.New([]byte{0}), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := c.a.Equal(c.b); got != c.want {
				t.Errorf("Equal = %v, want %v", got, c.want)
			}
		})
	}
	if got := zero.Len(); got != 0 {
		t.Errorf("zero Len() = %d, want 0", got)
	}
}

func TestMACIsThatOfRFC4231(t *testing.T) {
	key := bytes.Repeat([]byte{0x0b}, 20) // test case 1
	const want = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
	if got := fmt.Sprintf("%x", secret.New([]byte("Hi There")).MAC(key)); got != want {
		t.Errorf("MAC = %s, want %s", got, want)
	}
}
