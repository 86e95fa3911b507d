package provider_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
)

const (
	role   = provider.Fact("serviceaccount/eks.amazonaws.com/role-arn")
	region = provider.Fact("node/topology.kubernetes.io/region")
)

func TestAFactNamesAnAnnotationOrALabel(t *testing.T) {
	if got := provider.ServiceAccountAnnotation("eks.amazonaws.com/role-arn"); got != role {
		t.Errorf("ServiceAccountAnnotation = %q, want %q", got, role)
	}
	if got := provider.NodeLabel("topology.kubernetes.io/region"); got != region {
		t.Errorf("NodeLabel = %q, want %q", got, region)
	}
	for fact, want := range map[provider.Fact]string{
		role: `"eks.amazonaws.com/role-arn" true "" false`, region: `"" false "topology.kubernetes.io/region" true`, "pod/x": `"" false "" false`,
	} {
		annotation, isAnnotation := fact.ServiceAccountAnnotation()
		label, isLabel := fact.NodeLabel()
		if !isAnnotation {
			annotation = ""
		}
		if !isLabel {
			label = ""
		}
		if got := fmt.Sprintf("%q %v %q %v", annotation, isAnnotation, label, isLabel); got != want {
			t.Errorf("%s: annotation and label are %s, want %s", fact, got, want)
		}
	}
}

func TestFactsThatAreNotKnownAreMissing(t *testing.T) {
	facts := provider.Facts{role: "", "node/known": "x"}
	for _, c := range []struct{ asked, missing []provider.Fact }{
		{nil, nil},
		{[]provider.Fact{role, "node/known"}, nil}, // "" says that there is none
		{[]provider.Fact{region, role, "node/zone"}, []provider.Fact{region, "node/zone"}},
	} {
		before := fmt.Sprint(c.asked)
		err := facts.Known(c.asked...)
		var missing *provider.MissingFactsError
		if errors.As(err, &missing) != (c.missing != nil) || missing != nil && !cmp.Equal(missing.Facts, c.missing) {
			t.Errorf("Known(%v) = %v, want that %v are missing", c.asked, err, c.missing)
		}
		if err != nil && (!errors.Is(err, provider.ErrInvalid) || provider.Reason(err) != "Invalid") {
			t.Errorf("Known(%v) = %v, want ErrInvalid", c.asked, err)
		}
		if after := fmt.Sprint(c.asked); after != before {
			t.Errorf("Known changed %s to %s", before, after)
		}
	}
	if err := provider.Facts(nil).Known(role); err == nil {
		t.Error("no facts at all know a role")
	}
}

func TestMissingFactsSayHowToGetThem(t *testing.T) {
	text := (&provider.MissingFactsError{Facts: []provider.Fact{role, region}}).Error()
	for _, want := range []string{`"serviceaccount/eks.amazonaws.com/role-arn" and "node/topology.kubernetes.io/region"`, "has an API server", "set in the class"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q does not say %s", text, want)
		}
	}
}

func TestFactsAreBounded(t *testing.T) {
	many := func(n int) provider.Facts {
		facts := provider.Facts{}
		for i := range n {
			facts[provider.NodeLabel(fmt.Sprint("l", i))] = ""
		}
		return facts
	}
	for _, c := range []struct {
		name  string
		facts provider.Facts
		want  string // part of the error; "" means valid
	}{
		{"none", nil, ""},
		{"both kinds, one without a text", provider.Facts{role: "arn:aws:iam::1:role/a\nb", region: ""}, ""},
		{"as many as may be", many(16), ""},
		{"too many", many(17), "17 facts"},
		{"a key as long as may be", provider.Facts{provider.NodeLabel(strings.Repeat("k", 317)): ""}, ""},
		{"a key too long", provider.Facts{provider.NodeLabel(strings.Repeat("k", 318)): ""}, "318 bytes"},
		{"no key", provider.Facts{"node/": ""}, "0 bytes"},
		{"no kind", provider.Facts{"region": ""}, "no kind that is known"},
		{"a kind that is not known", provider.Facts{"pod/x": ""}, "no kind that is known"},
		{"a space", provider.Facts{"node/a b": ""}, "characters"},
		{"two lines", provider.Facts{"serviceaccount/a\nb": ""}, "characters"},
		{"letters of another alphabet", provider.Facts{"node/ä": ""}, "characters"},
		{"a text as long as may be", provider.Facts{role: strings.Repeat("x", 8192)}, ""},
		{"a text too long", provider.Facts{role: strings.Repeat("x", 8193)}, string(role) + " is no text of at most 8192 bytes"},
		{"what is no text", provider.Facts{role: "a\xff"}, string(role) + " is no text"},
	} {
		t.Run(c.name, func(t *testing.T) {
			check := func(what string, err error, want string) {
				switch {
				case want == "" && err != nil:
					t.Errorf("%s = %v, want none", what, err)
				case want != "" && (!errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n")):
					t.Errorf("%s = %v, want ErrInvalid and %q in one line", what, err, want)
				}
			}
			check("Facts.Validate", c.facts.Validate(), c.want)
			missing := &provider.MissingFactsError{}
			for fact := range c.facts {
				missing.Facts = append(missing.Facts, fact)
			}
			switch {
			case len(missing.Facts) == 0:
				check("MissingFactsError.Validate", missing.Validate(), "0 facts are missing")
			case !strings.Contains(c.want, "no text"): // which are not asked for
				check("MissingFactsError.Validate", missing.Validate(), c.want)
			}
		})
	}
}
