package plugin_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/plugin/v1alpha1"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

const (
	missingFacts = "keymount-missing-facts-bin"

	role   = provider.Fact("serviceaccount/eks.amazonaws.com/role-arn")
	region = provider.Fact("node/topology.kubernetes.io/region")
)

// needs returns a Provider that needs facts, and says what the last one is.
func needs(facts ...provider.Fact) provider.Provider {
	return fetch(func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
		if err := req.Facts.Known(facts...); err != nil {
			return nil, fmt.Errorf("find the region: %w", err)
		}
		return says(req.Facts[facts[len(facts)-1]]).Fetch(ctx, req)
	})
}

// unknown returns the facts that the error says are missing.
func unknown(err error) []provider.Fact {
	var missing *provider.MissingFactsError
	if !errors.As(err, &missing) {
		return nil
	}
	return missing.Facts
}

func TestMissingFactsAreKnownThroughSockets(t *testing.T) {
	near, far := shortDir(t), shortDir(t)
	serve(t, listen(t, far), needs(role, region), nil)
	serve(t, listen(t, near), lookup(t, newDir(t, nil, far)), nil) // a provider that asks another one
	p, req := lookup(t, newDir(t, nil, near)), fullRequest()
	req.Facts = nil
	_, err := p.Fetch(t.Context(), req)
	if diff := cmp.Diff([]provider.Fact{role, region}, unknown(fmt.Errorf("publish: %w", err))); diff != "" {
		t.Errorf("Fetch = %v; missing facts (-want +got):\n%s", err, diff)
	}
	if !errors.Is(err, provider.ErrInvalid) || status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "run a Keymount driver that has an API server") {
		t.Errorf("Fetch = %v, want InvalidArgument and what to do", err)
	}
	long := strings.Repeat("ü", 4<<10) // as long as may be
	req.Facts = provider.Facts{role: "", region: long}
	for i := range 14 {
		req.Facts[provider.NodeLabel(fmt.Sprint("l", i))] = long
	}
	if bundle, err := p.Fetch(t.Context(), req); err != nil || string(bundle.Files[0].Data.Reveal()) != long {
		t.Errorf("Fetch with the facts = %v, %v", bundle, err)
	}
}

func TestUpstreamsDriverIsToldOfMissingFacts(t *testing.T) {
	lis := listen(t, shortDir(t))
	serve(t, lis, needs(region), nil)
	_, err := driver(t, lis).Mount(t.Context(), upstream())
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), `nobody looked up "node/topology.kubernetes.io/region" in the cluster`) {
		t.Errorf("Mount = %v, want InvalidArgument and what to do", err)
	}
}

func TestFactsThatCannotBeLookedUpAreNotAskedFor(t *testing.T) {
	many := make([]provider.Fact, 17)
	for i := range many {
		many[i] = provider.NodeLabel(fmt.Sprint("l", i))
	}
	for name, facts := range map[string][]provider.Fact{
		"too many": many, "of no kind": {region, "pod/x"}, "not fit to be printed": {"node/a\nb"}, "too long": {provider.NodeLabel(strings.Repeat("x", 318))},
		"a token of the request": {"node/the-token"},
	} {
		t.Run(name, func(t *testing.T) {
			lis := listen(t, shortDir(t))
			serve(t, lis, needs(facts...), nil)
			var trailer metadata.MD
			_, err := driver(t, lis).Mount(t.Context(), upstream(), grpc.Trailer(&trailer))
			if status.Code(err) != codes.InvalidArgument || len(trailer.Get(missingFacts)) > 0 {
				t.Errorf("Mount = %v with the trailer %v, want InvalidArgument and no facts", err, trailer)
			}
		})
	}
}

func TestWhatAProviderSaysOfMissingFactsIsChecked(t *testing.T) {
	token := canary()
	const one = `["node/topology.kubernetes.io/region"]`
	for _, c := range []struct {
		name    string
		code    codes.Code
		trailer []string
		want    []provider.Fact
	}{
		{"a list is believed", codes.InvalidArgument, []string{one}, []provider.Fact{region}},
		{"no list is none", codes.InvalidArgument, nil, nil},
		{"two lists are none", codes.InvalidArgument, []string{one, one}, nil},
		{"another failure is not for want of facts", codes.Unavailable, []string{one}, nil},
		{"nor is one that the driver would call invalid, too", codes.FailedPrecondition, []string{one}, nil},
		{"an empty list is ignored", codes.InvalidArgument, []string{"[]"}, nil},
		{"what is no list is ignored", codes.InvalidArgument, []string{`{"node/x": ""}`}, nil},
		{"what is no JSON is ignored", codes.InvalidArgument, []string{"node/x"}, nil},
		{"a long list is ignored", codes.InvalidArgument, []string{"[" + strings.Repeat(`"node/x",`, 16) + `"node/x"]`}, nil},
		{"a long name is ignored", codes.InvalidArgument, []string{`["node/` + strings.Repeat("x", 318) + `"]`}, nil},
		{"a name of two lines is ignored", codes.InvalidArgument, []string{`["node/x\ny"]`}, nil},
		{"a name of another kind is ignored", codes.InvalidArgument, []string{`["secret/x"]`}, nil},
		{"a name that shows a token is ignored", codes.InvalidArgument, []string{`["node/` + token + `"]`}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := shortDir(t)
			serveForeign(t, listen(t, dir), foreign{mount: func(ctx context.Context, _ *v1alpha1.MountRequest) (*v1alpha1.MountResponse, error) {
				for _, list := range c.trailer {
					if err := grpc.SetTrailer(ctx, metadata.Pairs(missingFacts, list)); err != nil {
						return nil, err
					}
				}
				return nil, status.Error(c.code, "it said no")
			}})
			req := fullRequest()
			req.Tokens["aud"] = provider.Token{Value: secret.New([]byte(token))}
			_, err := lookup(t, newDir(t, nil, dir)).Fetch(t.Context(), req)
			if diff := cmp.Diff(c.want, unknown(err)); diff != "" {
				t.Errorf("Fetch = %v; missing facts (-want +got):\n%s", err, diff)
			}
			var refusal *plugin.Error
			if !errors.As(err, &refusal) || refusal.Code != c.code || strings.Contains(fmt.Sprintf("%v %#v", err, err), token) {
				t.Errorf("Fetch = %#v, want the code %v and no token", err, c.code)
			}
		})
	}
}

func TestFactsOfADriverAreChecked(t *testing.T) {
	for _, c := range []struct{ name, facts, want string }{ // want is part of the error; "" means that they are taken
		{"facts", `{"node/topology.kubernetes.io/region": "eu"}`, ""},
		{"none", `null`, ""},
		{"no JSON", `canary`, "want a JSON object"},
		{"no object", `["node/a"]`, "want a JSON object"},
		{"no text", `{"node/a": {"canary": 1}}`, `the value of "node/a" is not a string`},
		{"of no kind", `{"pod/a": "canary"}`, "no kind that is known"},
		{"not fit to be printed", `{"node/a\nb": "canary"}`, "characters"},
		{"too long", `{"node/a": "canary` + strings.Repeat("x", 8<<10) + `"}`, "at most 8192 bytes"},
		{"too many", `{"node/a":"","node/b":"","node/c":"","node/d":"","node/e":"","node/f":"","node/g":"","node/h":"","node/i":"",` +
			`"node/j":"","node/k":"","node/l":"","node/m":"","node/n":"","node/o":"","node/p":"","node/q":""}`, "17 facts"},
	} {
		t.Run(c.name, func(t *testing.T) {
			lis := listen(t, shortDir(t))
			serve(t, lis, fetch(func(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
				return says(req.Facts[region]).Fetch(ctx, req)
			}), nil)
			ctx := metadata.AppendToOutgoingContext(t.Context(), "keymount-facts-bin", c.facts)
			_, err := driver(t, lis).Mount(ctx, upstream())
			switch {
			case c.want == "" && err != nil:
				t.Errorf("Mount = %v, want none", err)
			case c.want != "" && (status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "canary")):
				t.Errorf("Mount = %v, want InvalidArgument, %q and no canary", err, c.want)
			}
		})
	}
}
