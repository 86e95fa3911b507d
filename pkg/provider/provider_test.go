package provider_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/atomicdir"
	"github.com/keymount/keymount/pkg/provider"
)

// expired returns a warning for each message.
func expired(messages ...string) (warnings []provider.Warning) {
	for _, message := range messages {
		warnings = append(warnings, provider.Warning{Reason: provider.Expired, Message: message})
	}
	return warnings
}

func TestABundleIsValidatedWholly(t *testing.T) {
	versions := provider.Versions{"o": "1"}
	file := func(paths ...string) (files []provider.File) {
		for _, p := range paths {
			files = append(files, provider.File{Path: p, Mode: 0o600})
		}
		return files
	}
	for _, c := range []struct {
		name   string
		bundle *provider.Bundle
		want   string // part of the error; "" means valid
	}{
		{"no bundle", nil, "no bundle"},
		{"no versions", &provider.Bundle{Files: file("a")}, "missing object versions"},
		{"an object without an ID", &provider.Bundle{Versions: provider.Versions{"": "1"}}, "without an object ID"},
		{"a version may be unknown", &provider.Bundle{Versions: provider.Versions{"o": ""}}, ""},
		{"versions beyond what is worth remembering", &provider.Bundle{Versions: provider.Versions{"o": strings.Repeat("v", 512<<10)}}, "at most"},
		{"files", &provider.Bundle{Versions: versions, Files: file("a", "b/c", "b/d")}, ""},
		{"no files at all", &provider.Bundle{Versions: versions}, ""},
		{"a path that climbs", &provider.Bundle{Versions: versions, Files: file("../a")}, `"../a"`},
		{"the directory itself", &provider.Bundle{Versions: versions, Files: file(".")}, `"."`},
		{"two files of one path", &provider.Bundle{Versions: versions, Files: file("a", "a")}, `"a"`},
		{"a file that is also a directory", &provider.Bundle{Versions: versions, Files: file("a/b", "a")}, `"a"`},
		{"a mode beyond permissions", &provider.Bundle{Versions: versions, Files: []provider.File{{Path: "a", Mode: 0o4755}}}, `"a"`},
		{"as many warnings as may be, of the longest", &provider.Bundle{Versions: versions, Warnings: slices.Repeat(expired(strings.Repeat("ü", 256)), 64)}, ""},
		{"too many warnings", &provider.Bundle{Versions: versions, Warnings: slices.Repeat(expired("a"), 65)}, "65 warnings"},
		{"a warning of another reason", &provider.Bundle{Versions: versions, Warnings: []provider.Warning{{Reason: "expired", Message: "a"}}}, "reason that is not known"},
		{"a warning that says nothing", &provider.Bundle{Versions: versions, Warnings: expired("a", "")}, "0 bytes"},
		{"a long warning", &provider.Bundle{Versions: versions, Warnings: expired(strings.Repeat("x", 513))}, "513 bytes"},
		{"a warning of two lines", &provider.Bundle{Versions: versions, Warnings: expired("a\nb")}, "one line of printable text"},
		{"a warning that turns the text around", &provider.Bundle{Versions: versions, Warnings: expired("a\u202eb")}, "one line of printable text"},
		{"a warning that is no text", &provider.Bundle{Versions: versions, Warnings: expired("a\xff")}, "one line of printable text"},
		{"warnings of an unchanged bundle count", &provider.Bundle{Versions: versions, Warnings: expired(""), Unchanged: true}, "0 bytes"},
		{"files of an unchanged bundle are ignored", &provider.Bundle{Versions: versions, Files: file(".."), Unchanged: true}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			switch err := c.bundle.Validate(); {
			case c.want == "" && err != nil:
				t.Errorf("Validate = %v, want none", err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
				t.Errorf("Validate = %v, want an error with %s", err, c.want)
			case err != nil && provider.Reason(err) != "Internal":
				t.Errorf("Reason = %q: a bad bundle is a bug of the provider", provider.Reason(err))
			}
		})
	}
	if err := (&provider.Bundle{Versions: versions, Files: file("/")}).Validate(); !errors.Is(err, atomicdir.ErrPath) {
		t.Errorf("Validate = %v, want atomicdir.ErrPath", err)
	}
}

func TestLiveKeepsTokensThatHaveNotExpired(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	tokens := provider.Tokens{"past": {Expires: now.Add(-1)}, "now": {Expires: now}, "next": {Expires: now.Add(1)}, "never": {}}
	want := provider.Tokens{"next": {Expires: now.Add(1)}, "never": {}}
	if diff := cmp.Diff(want, tokens.Live(now)); diff != "" {
		t.Errorf("Live (-want +got):\n%s", diff)
	}
	if len(tokens) != 4 {
		t.Errorf("Live changed its receiver: %v", tokens)
	}
}

func TestATokenIsFoundWhileItIsValid(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	tokens := provider.Tokens{"": {Expires: now.Add(time.Hour)}, "endless": {}, "expired": {Expires: now}}
	for audience, valid := range map[string]bool{"": true, "endless": true, "expired": false, "unknown": false} {
		token, err := tokens.For(audience, now)
		var missing *provider.MissingTokenError
		switch {
		case valid && (err != nil || token.Expires != tokens[audience].Expires):
			t.Errorf("For(%q) = %v, %v, want the token", audience, token, err)
		case !valid && (!errors.As(err, &missing) || missing.Audience != audience || !errors.Is(err, provider.ErrDenied)):
			t.Errorf("For(%q) = %v, %v, want that it is missing", audience, token, err)
		}
	}
}

func TestAMissingTokenSaysHowToGetIt(t *testing.T) {
	for audience, name := range map[string]string{
		"x": `audience "x"`, "": "the API server's own audience", strings.Repeat("y", 1000): `audience "` + strings.Repeat("y", 200) + `":`,
	} {
		text := (&provider.MissingTokenError{Audience: audience}).Error()
		for _, want := range []string{name, "spec.tokenRequests", "csiDriver.tokenRequests", "--mint-tokens", "mintTokens.enabled"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q does not name %s", text, want)
			}
		}
	}
}

func TestReasonNamesTheSentinel(t *testing.T) {
	for want, err := range map[string]error{
		"": nil, "Invalid": provider.ErrInvalid, "NotFound": provider.ErrNotFound, "Denied": provider.ErrDenied,
		"Unavailable": fmt.Errorf("a: %w", fmt.Errorf("b: %w", provider.ErrUnavailable)), "Internal": errors.New("other"),
	} {
		if got := provider.Reason(err); got != want {
			t.Errorf("Reason(%v) = %q, want %q", err, got, want)
		}
	}
}

// named is a provider that fails with its name; layer wraps one.
type (
	named    string
	layer    struct{ provider.Provider }
	releaser struct{ named }
)

func (n named) Fetch(context.Context, *provider.Request) (*provider.Bundle, error) {
	return nil, errors.New(string(n))
}

func (l layer) Unwrap() provider.Provider { return l.Provider }

func (releaser) Release(context.Context, provider.Lease) error { return nil }

func TestAsFindsWhatIsWrapped(t *testing.T) {
	inner := releaser{"inner"}
	if got, ok := provider.As[provider.Releaser](layer{layer{inner}}); !ok || got != provider.Releaser(inner) {
		t.Errorf("As = %v, %v; want the innermost", got, ok)
	}
	for _, p := range []provider.Provider{nil, named("x"), layer{named("x")}, layer{}} {
		if got, ok := provider.As[provider.Releaser](p); ok {
			t.Errorf("As(%v) = %v, want none", p, got)
		}
	}
}

func TestDecoratePutsTheLastOutermost(t *testing.T) {
	failing := errors.New("no such provider")
	lookup := func(name string) (provider.Provider, error) {
		if name == "none" {
			return nil, failing
		}
		return named(name), nil
	}
	var order []string
	mark := func(mark string) provider.Middleware {
		return func(name string, next provider.Provider) provider.Provider {
			order = append(order, mark+" around "+name)
			return layer{next}
		}
	}
	decorated := provider.Decorate(lookup, mark("inner"), mark("outer"))
	if _, err := decorated("none"); !errors.Is(err, failing) {
		t.Errorf("lookup = %v, want the error of the lookup", err)
	}
	p, err := decorated("p")
	if err != nil || p != provider.Provider(layer{layer{named("p")}}) {
		t.Errorf("lookup = %v, %v", p, err)
	}
	if diff := cmp.Diff([]string{"inner around p", "outer around p"}, order); diff != "" {
		t.Errorf("order (-want +got):\n%s", diff)
	}
}
