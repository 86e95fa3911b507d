package plugin_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// wants returns a Provider that needs a token of the audience.
func wants(audience string) provider.Provider {
	return fetch(func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
		token, err := req.Tokens.For(audience, time.Now())
		if err != nil {
			return nil, fmt.Errorf("log in: %w", err)
		}
		return says(string(token.Value.Reveal())).Fetch(ctx, req)
	})
}

// lacks returns the audience of the token that the error says is missing.
func lacks(err error) (audience string, ok bool) {
	var missing *provider.MissingTokenError
	if !errors.As(err, &missing) {
		return "", false
	}
	return missing.Audience, true
}

func TestAMissingTokenIsKnownThroughSockets(t *testing.T) {
	for name, audience := range map[string]string{
		"a word": "x", "a URL": "https://vault.example:8200", "letters of any alphabet": "schlüssel", "the API server's own": "",
		"as long as may be": strings.Repeat("x", 1024),
	} {
		t.Run(name, func(t *testing.T) {
			near, far := shortDir(t), shortDir(t)
			serve(t, listen(t, far), wants(audience), nil)
			serve(t, listen(t, near), lookup(t, newDir(t, nil, far)), nil) // a provider that asks another one
			p, req := lookup(t, newDir(t, nil, near)), fullRequest()
			delete(req.Tokens, audience)
			_, err := p.Fetch(t.Context(), req)
			got, missing := lacks(fmt.Errorf("publish: %w", err))
			if !missing || got != audience || !errors.Is(err, provider.ErrDenied) || status.Code(err) != codes.PermissionDenied {
				t.Errorf("Fetch = %v, a missing token of audience %q: %v; want that of %q", err, got, missing, audience)
			}
			if !strings.Contains(err.Error(), "--mint-tokens") && len(audience) < 1000 {
				t.Errorf("%q does not say what to do", err)
			}
			req.Tokens[audience] = provider.Token{Value: secret.New([]byte("a token"))}
			if bundle, err := p.Fetch(t.Context(), req); err != nil || string(bundle.Files[0].Data.Reveal()) != "a token" {
				t.Errorf("Fetch with the token = %v, %v", bundle, err)
			}
		})
	}
}

func TestUpstreamsDriverIsToldOfAMissingToken(t *testing.T) {
	lis := listen(t, shortDir(t))
	serve(t, lis, wants("x"), nil)
	_, err := driver(t, lis).Mount(t.Context(), upstream())
	if status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), `no valid service account token of audience "x": list it in spec.tokenRequests`) {
		t.Errorf("Mount = %v, want PermissionDenied and what to do", err)
	}
}

// The class of a pod names the audience: it may be what no header can carry.
func TestAnAudienceThatCannotBeShownIsNotSent(t *testing.T) {
	for name, audience := range map[string]string{
		"too long": strings.Repeat("x", 1025), "two lines": "a\nb", "a control character": "a\x00", "not UTF-8": "a\xff", "a token of the request": "the-token",
	} {
		t.Run(name, func(t *testing.T) {
			lis := listen(t, shortDir(t))
			serve(t, lis, wants(audience), nil)
			var trailer metadata.MD
			_, err := driver(t, lis).Mount(t.Context(), upstream(), grpc.Trailer(&trailer))
			if status.Code(err) != codes.PermissionDenied || len(trailer.Get("keymount-missing-audience-bin")) > 0 {
				t.Errorf("Mount = %v with the trailer %v, want PermissionDenied and no audience", err, trailer)
			}
		})
	}
}

func TestWhatAProviderSaysOfAMissingTokenIsChecked(t *testing.T) {
	token := canary()
	for _, c := range []struct {
		name    string
		code    codes.Code
		trailer []string
		want    bool
	}{
		{"one audience is believed", codes.PermissionDenied, []string{"x"}, true},
		{"no audience is none", codes.PermissionDenied, nil, false},
		{"two audiences are none", codes.PermissionDenied, []string{"x", "y"}, false},
		{"another failure is not for want of a token", codes.Unavailable, []string{"x"}, false},
		{"a long audience is ignored", codes.PermissionDenied, []string{strings.Repeat("x", 1025)}, false},
		{"an audience of two lines is ignored", codes.PermissionDenied, []string{"x\ny"}, false},
		{"an audience that shows a token is ignored", codes.PermissionDenied, []string{"x " + token}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := shortDir(t)
			serveForeign(t, listen(t, dir), foreign{mount: func(ctx context.Context, _ *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
				for _, audience := range c.trailer {
					if err := grpc.SetTrailer(ctx, metadata.Pairs("keymount-missing-audience-bin", audience)); err != nil {
						return nil, err
					}
				}
				return nil, status.Error(c.code, "it said no")
			}})
			req := fullRequest()
			req.Tokens["aud"] = provider.Token{Value: secret.New([]byte(token))}
			_, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), req)
			if audience, missing := lacks(err); missing != c.want || missing && audience != "x" {
				t.Errorf("Fetch = %v, a missing token of audience %q: %v; want %v", err, audience, missing, c.want)
			}
			var refusal *plugin.Error
			if !errors.As(err, &refusal) || refusal.Code != c.code || strings.Contains(fmt.Sprintf("%v %#v", err, err), token) {
				t.Errorf("Fetch = %#v, want the code %v and no token", err, c.code)
			}
		})
	}
}
