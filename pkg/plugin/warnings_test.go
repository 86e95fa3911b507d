package plugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// expired returns a warning for each message.
func expired(messages ...string) (warnings []provider.Warning) {
	for _, message := range messages {
		warnings = append(warnings, provider.Warning{Reason: provider.Expired, Message: message})
	}
	return warnings
}

// warns returns a foreign provider that replies with these warnings.
func warns(text string) foreign {
	return foreign{mount: func(ctx context.Context, _ *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
		return &v1alpha1.MountResponse{ObjectVersion: versions()}, grpc.SetHeader(ctx, metadata.Pairs("keymount-warnings-bin", text))
	}}
}

func TestAsManyWarningsAsMayBePassThroughSockets(t *testing.T) {
	for name, message := range map[string]string{"with characters that JSON escapes": strings.Repeat("<", 512), "with characters of two bytes": strings.Repeat("ü", 256)} {
		t.Run(name, func(t *testing.T) {
			want := slices.Repeat(expired(message), 64)
			near, far := shortDir(t), shortDir(t)
			serve(t, listen(t, far), fetch(func(context.Context, *provider.Request) (*provider.Bundle, error) {
				return &provider.Bundle{Versions: provider.Versions{"a": "1"}, Warnings: want}, nil
			}), nil)
			serve(t, listen(t, near), lookup(t, newDir(t, nil, far)), nil) // a provider that asks another one
			bundle, err := lookup(t, newDir(t, nil, near)).Fetch(t.Context(), fullRequest())
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, bundle.Warnings); diff != "" {
				t.Errorf("warnings (-sent +received):\n%s", diff)
			}
		})
	}
}

func TestWhatAProviderWarnsOfIsChecked(t *testing.T) {
	const shape = "want a JSON list of objects with reason and message"
	for _, c := range []struct{ name, text, want string }{ // want is part of the error; "" means that there are no warnings
		{"nothing", ``, ""},
		{"null", `null`, ""},
		{"an empty list", `[]`, ""},
		{"no JSON", `canary`, shape},
		{"an object", `{"reason":"Expired","message":"canary"}`, shape},
		{"a list of texts", `["canary"]`, shape},
		{"two lists", `[] ["canary"]`, shape},
		{"what is not known of a warning", `[{"reason":"Expired","message":"a","canary":1}]`, shape},
		{"a list that does not end", `[{"reason":"Expired","message":"canary"}`, shape},
		{"a hole", `[null]`, "reason that is not known"},
		{"another reason", `[{"reason":"canary","message":"a"}]`, "reason that is not known"},
		{"no message", `[{"reason":"Expired"}]`, "0 bytes"},
		{"a long message", `[{"reason":"Expired","message":"canary` + strings.Repeat("x", 507) + `"}]`, "513 bytes"},
		{"two lines", `[{"reason":"Expired","message":"canary\nb"}]`, "one line of printable text"},
		{"what a terminal obeys", `[{"reason":"Expired","message":"canary\u001b[2J"}]`, "one line of printable text"},
		{"too many", "[" + strings.Repeat(`{"reason":"Expired","message":"canary"},`, 64) + `{"reason":"Expired","message":"a"}]`, "65 warnings"},
		{"much too many", "[" + strings.Repeat(" ", 256<<10) + "]", "want at most 262144"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := shortDir(t)
			serveForeign(t, listen(t, dir), warns(c.text))
			bundle, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), fullRequest())
			switch {
			case c.want == "" && (err != nil || bundle.Warnings != nil):
				t.Errorf("Fetch = %v, %v, want no warnings", bundle, err)
			case c.want != "" && (!errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "canary")):
				t.Errorf("Fetch = %v, want ErrInvalid, %q and no canary", err, c.want)
			}
		})
	}
}

func TestAWarningShowsNoSecretOfTheRequest(t *testing.T) {
	token := canary()
	long := strings.Repeat("ü", 200) + strings.Repeat("k", 112)
	for message, want := range map[string]string{
		"secret a of " + token + " has expired": "secret a of [secret] has expired",
		"secret b has expired":                  "secret b has expired",
		long:                                    strings.Repeat("ü", 200) + strings.Repeat("[secret]", 14), // as much as may be
	} {
		text, err := json.Marshal(expired(message))
		if err != nil {
			t.Fatal(err)
		}
		dir := shortDir(t)
		serveForeign(t, listen(t, dir), warns(string(text)))
		req := fullRequest()
		req.Tokens["aud"] = provider.Token{Value: secret.New([]byte(token))}
		req.Credentials = map[string]secret.Value{"client": secret.New([]byte("k"))}
		bundle, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(expired(want), bundle.Warnings); diff != "" {
			t.Errorf("warnings (-want +got):\n%s", diff)
		}
		if err := bundle.Validate(); err != nil {
			t.Error(err)
		}
	}
}

func TestAProviderWhoseWarningsCannotBeShownSendsNothing(t *testing.T) {
	lis := listen(t, shortDir(t))
	serve(t, lis, fetch(func(context.Context, *provider.Request) (*provider.Bundle, error) {
		return &provider.Bundle{Versions: provider.Versions{"a": "1"}, Warnings: expired("a\nb")}, nil
	}), nil)
	_, err := driver(t, lis).Mount(t.Context(), upstream())
	if status.Code(err) != codes.Internal || !strings.Contains(fmt.Sprint(err), "one line of printable text") {
		t.Errorf("Mount = %v, want Internal, and why", err)
	}
}
