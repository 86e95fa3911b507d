package awstest_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/keymount/keymount/providers/aws/awstest"
)

// parameters returns what GetParameters says: name, selector, version, value.
func (c *client) parametersOf(t testing.TB, names ...string) (found, invalid []string) {
	t.Helper()
	out, err := c.parameters.GetParameters(t.Context(), &ssm.GetParametersInput{Names: names, WithDecryption: aws.Bool(true)})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range out.Parameters {
		found = append(found, fmt.Sprint(*p.Name, aws.ToString(p.Selector), " ", p.Version, " ", *p.Value))
	}
	return found, out.InvalidParameters
}

func TestParametersAreFoundByNameVersionLabelAndARN(t *testing.T) {
	s := awstest.New(t, nil)
	c, r := newClient(t, s), s.Region(here)
	r.PutParameter("/app/b", "one")
	expect(t, "version", r.PutParameter("/app/b", "two"), 2)
	r.PutParameter("a", "three")
	r.PutParameter("c", "four")
	r.LabelParameter("/app/b", 1, "old")
	const arn = "arn:aws:ssm:eu-west-1:123456789012:parameter/"
	for _, c2 := range []struct {
		name           string
		ask            []string
		found, invalid []string
	}{
		{"in the order of the alphabet", []string{"c", "/app/b", "a"}, []string{"/app/b 2 two", "a 1 three", "c 1 four"}, nil},
		{"by version and label", []string{"a:1", "/app/b:old"}, []string{"/app/b:old 1 one", "a:1 1 three"}, nil},
		{"by ARN", []string{arn + "a", arn + "app/b:1"}, []string{"/app/b:1 1 one", "a 1 three"}, nil},
		{"what is not there", []string{"b", "a:2", "c:old", "app/b", arn + "x", "arn:aws:ssm:eu-west-2:123456789012:parameter/a"}, nil,
			[]string{"b", "a:2", "c:old", "app/b", arn + "x", "arn:aws:ssm:eu-west-2:123456789012:parameter/a"}},
	} {
		t.Run(c2.name, func(t *testing.T) {
			found, invalid := c.parametersOf(t, c2.ask...)
			expect(t, "found", found, c2.found)
			expect(t, "invalid", slices.Concat(invalid), slices.Concat(c2.invalid))
		})
	}
	r.LabelParameter("/app/b", 2, "old")
	found, _ := c.parametersOf(t, "/app/b:old")
	expect(t, "a label that has moved", found, []string{"/app/b:old 2 two"})
	one := must[*ssm.GetParameterOutput](t)(c.parameters.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("a"), WithDecryption: aws.Bool(true)}))
	expect(t, "ARN", *one.Parameter.ARN, arn+"a")
	expect(t, "type", one.Parameter.Type, types.ParameterTypeSecureString)
}

func TestASecureStringIsDecryptedForWhoAsks(t *testing.T) {
	s := awstest.New(t, nil)
	c := newClient(t, s)
	s.Region(here).PutParameter("a", "canary")
	out := must[*ssm.GetParametersOutput](t)(c.parameters.GetParameters(t.Context(), &ssm.GetParametersInput{Names: []string{"a"}}))
	if value := *out.Parameters[0].Value; !strings.HasPrefix(value, "AQICAH") || strings.Contains(value, "canary") {
		t.Errorf("value %s, want something encrypted", value)
	}
}

func TestAParameterThatIsMadeAnewBeginsAtVersionOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := awstest.New(t, &awstest.Options{Pipe: true})
		c, r := newClient(t, s), s.Region(here)
		modified := func() time.Time {
			out := must[*ssm.GetParameterOutput](t)(c.parameters.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("a")}))
			return *out.Parameter.LastModifiedDate
		}
		r.PutParameter("a", "one")
		began := modified()
		time.Sleep(1500 * time.Millisecond)
		r.DeleteParameter("a")
		expect(t, "version", r.PutParameter("a", "two"), 1)
		expect(t, "time between", modified().Sub(began), 1500*time.Millisecond)
	})
}

func TestParametersOfAPath(t *testing.T) {
	s := awstest.New(t, nil)
	c, r := newClient(t, s), s.Region(here)
	for _, name := range []string{"/a/x", "/a/y", "/a/b/z", "/ab", "top"} {
		r.PutParameter(name, "v")
	}
	list := func(path string, recursive bool, most int32) (pages [][]string) {
		all := ssm.NewGetParametersByPathPaginator(c.parameters, &ssm.GetParametersByPathInput{Path: &path, Recursive: &recursive, MaxResults: &most})
		for all.HasMorePages() {
			out := must[*ssm.GetParametersByPathOutput](t)(all.NextPage(t.Context()))
			var names []string
			for _, p := range out.Parameters {
				names = append(names, *p.Name)
			}
			pages = append(pages, names)
		}
		return pages
	}
	expect(t, "one level", list("/a", false, 10), [][]string{{"/a/x", "/a/y"}})
	expect(t, "all, in pages", list("/a/", true, 2), [][]string{{"/a/b/z", "/a/x"}, {"/a/y"}})
	expect(t, "all there is", list("/", true, 10), [][]string{{"/a/b/z", "/a/x", "/a/y", "/ab", "top"}})
}

func TestAParameterHasAHundredVersionsAndTheOldestGo(t *testing.T) {
	s := awstest.New(t, nil)
	c, r := newClient(t, s), s.Region(here)
	for range 101 {
		r.PutParameter("a", "x")
	}
	_, invalid := c.parametersOf(t, "a:1")
	expect(t, "invalid", invalid, []string{"a:1"})
	r.LabelParameter("a", 2, "kept")
	_, err := c.parameters.PutParameter(t.Context(), &ssm.PutParameterInput{Name: aws.String("a"), Value: aws.String("x"), Overwrite: aws.Bool(true)})
	refused(t, err, http.StatusBadRequest, "ParameterMaxVersionLimitExceeded", "Version 2, the oldest version, can't be deleted")
}

func TestParameterStoreRefuses(t *testing.T) {
	s := awstest.New(t, nil)
	c, r := newClient(t, s), s.Region(here)
	r.PutParameter("a", "one")
	r.PutParameter("/a/b", "one")
	put := func(name, value string, change ...func(*ssm.PutParameterInput)) func() error {
		in := &ssm.PutParameterInput{Name: &name, Value: &value, Type: types.ParameterTypeString}
		for _, f := range change {
			f(in)
		}
		return func() error { return second(c.parameters.PutParameter(t.Context(), in)) }
	}
	overwrite := func(in *ssm.PutParameterInput) { in.Overwrite = aws.Bool(true) }
	get := func(name string) func() error {
		return func() error {
			return second(c.parameters.GetParameter(t.Context(), &ssm.GetParameterInput{Name: &name}))
		}
	}
	all := func(names ...string) func() error {
		return func() error {
			return second(c.parameters.GetParameters(t.Context(), &ssm.GetParametersInput{Names: names}))
		}
	}
	label := func(name string, version int64, labels ...string) func() error {
		in := &ssm.LabelParameterVersionInput{Name: &name, ParameterVersion: &version, Labels: labels}
		return func() error { return second(c.parameters.LabelParameterVersion(t.Context(), in)) }
	}
	path := func(in *ssm.GetParametersByPathInput) func() error {
		return func() error { return second(c.parameters.GetParametersByPath(t.Context(), in)) }
	}
	eleven := strings.Split("l0 l1 l2 l3 l4 l5 l6 l7 l8 l9 l10", " ")
	must[*ssm.LabelParameterVersionOutput](t)(c.parameters.LabelParameterVersion(t.Context(), &ssm.LabelParameterVersionInput{Name: aws.String("a"), Labels: eleven[:10]}))
	expectRefusals(t, http.StatusBadRequest, []refusal{
		{"a parameter that is not there", get("b"), "ParameterNotFound", ""},
		{"a version that is not there", get("a:7"), "ParameterVersionNotFound", "Systems Manager could not find version 7 of a. Verify the version and try again."},
		{"eleven names", all(eleven...), "ValidationException",
			"1 validation error detected: Value '[l0, l1, l2, l3, l4, l5, l6, l7, l8, l9, l10]' at 'names' failed to satisfy constraint: Member must have length less than or equal to 10"},
		{"no names", all([]string{}...), "ValidationException", "Value '[]' at 'names' failed to satisfy constraint: Member must have length greater than or equal to 1"},
		{"an empty name", all("a", ""), "ValidationException", "at 'names' failed to satisfy constraint: Member must satisfy constraint: [Member must have length greater than or equal to 1]"},
		{"one name twice", all("a", "a"), "ValidationException", "duplicate names"},
		{"one parameter in two versions", all("a:1", "a:2"), "ValidationException", "duplicate names"},
		{"one parameter by name and ARN", all("/a/b", "arn:aws:ssm:eu-west-1:123456789012:parameter/a/b"), "ValidationException", "duplicate names"},
		{"a parameter that is there", put("a", "x"), "ParameterAlreadyExists", "set the overwrite option in the request to true."},
		{"another type", put("a", "x", overwrite), "HierarchyTypeMismatchException", ""},
		{"no type", put("b", "x", func(in *ssm.PutParameterInput) { in.Type = "" }), "ValidationException", "A parameter type is required when you create a parameter."},
		{"a type that is none", put("b", "x", func(in *ssm.PutParameterInput) { in.Type = "Text" }), "ValidationException", "Member must satisfy enum value set: [SecureString, StringList, String]"},
		{"a reserved name", put("/aws/x", "x"), "ValidationException", `can't be prefixed with "ssm" (case-insensitive).`},
		{"a name with a space", put("a b", "x"), "ValidationException", "sub-paths"},
		{"a path without its beginning", put("a/b", "x"), "ValidationException", "Parameter name must be a fully qualified name."},
		{"sixteen levels", put(strings.Repeat("/a", 16), "x"), "HierarchyLevelLimitExceededException", "15"},
		{"no value", put("b", ""), "ValidationException", "at 'value' failed"},
		{"a value for the advanced tier", put("b", strings.Repeat("x", 4097)), "ValidationException", "Standard tier parameters support a maximum parameter value of 4096 characters."},
		{"a value for no tier", put("b", strings.Repeat("x", 8193), func(in *ssm.PutParameterInput) { in.Tier = types.ParameterTierAdvanced }), "ValidationException", "8192"},
		{"a label of nothing", label("b", 1, "x"), "ParameterNotFound", ""},
		{"a label of no version", label("a", 3, "x"), "ParameterVersionNotFound", "could not find version 3 of a."},
		{"an eleventh label", label("a", 1, "x"), "ParameterVersionLabelLimitExceeded", "maximum 10 labels"},
		{"a path that is none", path(&ssm.GetParametersByPathInput{Path: aws.String("a")}), "ValidationException", "must begin with a forward slash"},
		{"a page that is too large", path(&ssm.GetParametersByPathInput{Path: aws.String("/"), MaxResults: aws.Int32(11)}), "ValidationException", "Value '11' at 'maxResults' failed to satisfy constraint: Member must have value less than or equal to 10"},
		{"a page that is none", path(&ssm.GetParametersByPathInput{Path: aws.String("/"), NextToken: aws.String("?")}), "InvalidNextToken", ""},
		{"a deletion of nothing", func() error {
			return second(c.parameters.DeleteParameter(t.Context(), &ssm.DeleteParameterInput{Name: aws.String("b")}))
		}, "ParameterNotFound", ""},
	})
	out := must[*ssm.LabelParameterVersionOutput](t)(c.parameters.LabelParameterVersion(t.Context(), &ssm.LabelParameterVersionInput{Name: aws.String("/a/b"), Labels: []string{"1x", "aws", "fine"}}))
	expect(t, "labels that are none", out.InvalidLabels, []string{"1x", "aws"})
}

func TestTheTierFollowsFromTheSize(t *testing.T) {
	c := newClient(t, awstest.New(t, nil))
	for value, want := range map[string]types.ParameterTier{"x": types.ParameterTierStandard, strings.Repeat("x", 5000): types.ParameterTierAdvanced} {
		out := must[*ssm.PutParameterOutput](t)(c.parameters.PutParameter(t.Context(), &ssm.PutParameterInput{
			Name: aws.String(fmt.Sprint("n", len(value))), Value: &value, Type: types.ParameterTypeString, Tier: types.ParameterTierIntelligentTiering,
		}))
		expect(t, "tier", out.Tier, want)
	}
}
