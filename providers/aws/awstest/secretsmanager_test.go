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
	sm "github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/keymount/keymount/providers/aws/awstest"
)

// value returns the text of a secret's version.
func (c *client) value(t testing.TB, id string, change ...func(*sm.GetSecretValueInput)) string {
	t.Helper()
	in := &sm.GetSecretValueInput{SecretId: &id}
	for _, f := range change {
		f(in)
	}
	out, err := c.secrets.GetSecretValue(t.Context(), in)
	if err != nil {
		t.Fatal(err)
	}
	return aws.ToString(out.SecretString) + string(out.SecretBinary)
}

func (c *client) stages(t testing.TB, id string) map[string][]string {
	t.Helper()
	out, err := c.secrets.DescribeSecret(t.Context(), &sm.DescribeSecretInput{SecretId: &id})
	if err != nil {
		t.Fatal(err)
	}
	return out.VersionIdsToStages
}

func stage(name string) func(*sm.GetSecretValueInput) {
	return func(in *sm.GetSecretValueInput) { in.VersionStage = &name }
}

func id(version string) func(*sm.GetSecretValueInput) {
	return func(in *sm.GetSecretValueInput) { in.VersionId = &version }
}

func TestASecretHasVersionsAndStages(t *testing.T) {
	s := awstest.New(t, nil)
	c := newClient(t, s)
	created := must[*sm.CreateSecretOutput](t)(c.secrets.CreateSecret(t.Context(), &sm.CreateSecretInput{Name: aws.String("shop/db"), SecretString: aws.String("one")}))
	first := *created.VersionId
	if !strings.HasPrefix(*created.ARN, "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/db-") {
		t.Errorf("ARN %s", *created.ARN)
	}
	put := must[*sm.PutSecretValueOutput](t)(c.secrets.PutSecretValue(t.Context(), &sm.PutSecretValueInput{SecretId: created.ARN, SecretBinary: []byte{0, 255}}))
	expect(t, "stages", c.stages(t, "shop/db"), map[string][]string{first: {"AWSPREVIOUS"}, *put.VersionId: {"AWSCURRENT"}})
	third := *must[*sm.PutSecretValueOutput](t)(c.secrets.PutSecretValue(t.Context(), &sm.PutSecretValueInput{
		SecretId: created.ARN, SecretString: aws.String("three"), VersionStages: []string{"AWSPENDING"},
	})).VersionId
	partial := (*created.ARN)[:len(*created.ARN)-len("-AbCdEf")]
	expect(t, "values", []string{
		c.value(t, "shop/db"), c.value(t, *created.ARN), c.value(t, partial), c.value(t, "shop/db", stage("AWSPREVIOUS")), c.value(t, "shop/db", stage("AWSPENDING")),
		c.value(t, "shop/db", id(first)), c.value(t, "shop/db", id(first), stage("AWSPREVIOUS")),
	}, []string{"\x00\xff", "\x00\xff", "\x00\xff", "one", "three", "one", "one"})

	_, err := c.secrets.UpdateSecretVersionStage(t.Context(), &sm.UpdateSecretVersionStageInput{
		SecretId: aws.String("shop/db"), VersionStage: aws.String("AWSCURRENT"), MoveToVersionId: &third, RemoveFromVersionId: put.VersionId,
	})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "stages", c.stages(t, "shop/db"), map[string][]string{third: {"AWSPENDING", "AWSCURRENT"}, *put.VersionId: {"AWSPREVIOUS"}})
	listed := func(deprecated bool) (ids []string) {
		out := must[*sm.ListSecretVersionIdsOutput](t)(c.secrets.ListSecretVersionIds(t.Context(), &sm.ListSecretVersionIdsInput{SecretId: created.Name, IncludeDeprecated: &deprecated}))
		for _, v := range out.Versions {
			ids = append(ids, *v.VersionId)
		}
		return ids
	}
	expect(t, "versions", listed(false), []string{*put.VersionId, third})
	expect(t, "all versions", listed(true), []string{first, *put.VersionId, third})
	expect(t, "a deprecated version", c.value(t, "shop/db", id(first)), "one")
}

func TestATestPutsSecretsAndStagesThem(t *testing.T) {
	s := awstest.New(t, nil)
	c, r := newClient(t, s), s.Region(here)
	one := r.PutSecret("a", []byte("one"))
	two := r.PutSecret("a", []byte("two"))
	three := r.PutSecretBinary("a", []byte("three"))
	r.StageSecret("a", "blue", one)
	r.StageSecret("a", "blue", two)
	r.StageSecret("a", "green", one)
	expect(t, "stages", c.stages(t, r.SecretARN("a")), map[string][]string{one: {"green"}, two: {"AWSPREVIOUS", "blue"}, three: {"AWSCURRENT"}})
	out := must[*sm.GetSecretValueOutput](t)(c.secrets.GetSecretValue(t.Context(), &sm.GetSecretValueInput{SecretId: aws.String("a")}))
	if out.SecretString != nil || string(out.SecretBinary) != "three" {
		t.Errorf("text %v and bytes %q, want bytes only", out.SecretString, out.SecretBinary)
	}
	_, err := c.in("us-east-2").secrets.GetSecretValue(t.Context(), &sm.GetSecretValueInput{SecretId: aws.String("a")})
	refused(t, err, http.StatusBadRequest, "ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
	r.DeleteSecret("a")
	r.PutSecret("a", []byte("anew"))
	expect(t, "the value", c.value(t, "a"), "anew")
}

func TestADeletedSecretIsGoneAtItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := awstest.New(t, &awstest.Options{Pipe: true})
		c, r := newClient(t, s), s.Region(here)
		r.PutSecret("a", []byte("one"))
		r.ScheduleDeletion("a")
		name := aws.String("a")
		get := func() error {
			return second(c.secrets.GetSecretValue(t.Context(), &sm.GetSecretValueInput{SecretId: name}))
		}
		refused(t, get(), http.StatusBadRequest, "InvalidRequestException", "because it was marked for deletion.")
		described := must[*sm.DescribeSecretOutput](t)(c.secrets.DescribeSecret(t.Context(), &sm.DescribeSecretInput{SecretId: name}))
		expect(t, "deletion", time.Until(*described.DeletedDate).Round(time.Hour), 30*24*time.Hour)
		must[*sm.RestoreSecretOutput](t)(c.secrets.RestoreSecret(t.Context(), &sm.RestoreSecretInput{SecretId: name}))
		expect(t, "the value", c.value(t, "a"), "one")
		deleted := must[*sm.DeleteSecretOutput](t)(c.secrets.DeleteSecret(t.Context(), &sm.DeleteSecretInput{SecretId: name, RecoveryWindowInDays: aws.Int64(7)}))
		expect(t, "deletion", time.Until(*deleted.DeletionDate).Round(time.Hour), 7*24*time.Hour)
		_, err := c.secrets.CreateSecret(t.Context(), &sm.CreateSecretInput{Name: name})
		refused(t, err, http.StatusBadRequest, "InvalidRequestException", "already scheduled for deletion.")
		time.Sleep(7 * 24 * time.Hour)
		refused(t, get(), http.StatusBadRequest, "ResourceNotFoundException", "")
	})
}

func TestSecretsAreListedByFilterAndPage(t *testing.T) {
	s := awstest.New(t, nil)
	c := newClient(t, s)
	for i := range 7 {
		tags := []types.Tag{{Key: aws.String("team"), Value: aws.String([]string{"red", "blue"}[i%2])}}
		must[*sm.CreateSecretOutput](t)(c.secrets.CreateSecret(t.Context(), &sm.CreateSecretInput{Name: aws.String(fmt.Sprint("app/", i)), SecretString: aws.String("x"), Tags: tags}))
	}
	s.Region(here).PutSecret("other", []byte("x"))
	list := func(most int32, filters ...types.Filter) (pages [][]string) {
		all := sm.NewListSecretsPaginator(c.secrets, &sm.ListSecretsInput{MaxResults: aws.Int32(most), Filters: filters})
		for all.HasMorePages() {
			out := must[*sm.ListSecretsOutput](t)(all.NextPage(t.Context()))
			var names []string
			for _, entry := range out.SecretList {
				names = append(names, *entry.Name)
			}
			pages = append(pages, names)
		}
		return pages
	}
	by := func(key types.FilterNameStringType, values ...string) types.Filter {
		return types.Filter{Key: key, Values: values}
	}
	expect(t, "pages", list(3), [][]string{{"app/0", "app/1", "app/2"}, {"app/3", "app/4", "app/5"}, {"app/6", "other"}})
	expect(t, "by name", list(100, by("name", "app/", "!o"), by("tag-value", "bl")), [][]string{{"app/1", "app/3", "app/5"}})
	expect(t, "by tag", list(100, by("tag-key", "!team")), [][]string{{"other"}})
	batch := sm.NewBatchGetSecretValuePaginator(c.secrets, &sm.BatchGetSecretValueInput{Filters: []types.Filter{by("name", "app")}, MaxResults: aws.Int32(4)})
	var sizes []int
	for batch.HasMorePages() {
		sizes = append(sizes, len(must[*sm.BatchGetSecretValueOutput](t)(batch.NextPage(t.Context())).SecretValues))
	}
	expect(t, "batches", sizes, []int{4, 3})
}

func TestABatchHasValuesAndErrors(t *testing.T) {
	s := awstest.New(t, nil)
	r := s.Region(here)
	s.Role(shop, awstest.Role{})
	c := newClient(t, s).assume(t, s, shop)
	one := r.PutSecret("a", []byte("one"))
	r.PutSecret("b", []byte("two"))
	r.PutSecret("closed", []byte("x"))
	r.PutSecret("gone", []byte("x"))
	r.ScheduleDeletion("gone")
	s.Deny(shop, "secretsmanager:GetSecretValue", "closed")
	out := must[*sm.BatchGetSecretValueOutput](t)(c.secrets.BatchGetSecretValue(t.Context(), &sm.BatchGetSecretValueInput{SecretIdList: []string{"a", "closed", "none", r.SecretARN("b"), "gone"}}))
	expect(t, "values", []string{*out.SecretValues[0].SecretString, *out.SecretValues[1].SecretString}, []string{"one", "two"})
	expect(t, "version", *out.SecretValues[0].VersionId, one)
	var problems []string
	for _, e := range out.Errors {
		problems = append(problems, *e.SecretId+" "+*e.ErrorCode)
	}
	expect(t, "errors", problems, []string{"closed AccessDeniedException", "none ResourceNotFoundException", "gone InvalidRequestException"})

	large := strings.Repeat("x", 60<<10)
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprint("large", i))
		r.PutSecret(names[i], []byte(large))
	}
	in := &sm.BatchGetSecretValueInput{SecretIdList: names}
	var got []string
	for pages := range 3 {
		out := must[*sm.BatchGetSecretValueOutput](t)(c.secrets.BatchGetSecretValue(t.Context(), in))
		for _, v := range out.SecretValues {
			got = append(got, *v.Name)
		}
		if in.NextToken = out.NextToken; in.NextToken == nil {
			expect(t, "pages after the first", pages, 1)
			break
		}
	}
	expect(t, "names", got, names)
}

func TestSecretsManagerRefuses(t *testing.T) {
	s := awstest.New(t, nil)
	c, r := newClient(t, s), s.Region(here)
	version := r.PutSecret("a", []byte("one"))
	r.PutSecret("a", []byte("two"))
	must[*sm.CreateSecretOutput](t)(c.secrets.CreateSecret(t.Context(), &sm.CreateSecretInput{Name: aws.String("empty")}))
	get := func(id string, change ...func(*sm.GetSecretValueInput)) func() error {
		in := &sm.GetSecretValueInput{SecretId: &id}
		for _, f := range change {
			f(in)
		}
		return func() error { return second(c.secrets.GetSecretValue(t.Context(), in)) }
	}
	batch := func(in *sm.BatchGetSecretValueInput) func() error {
		return func() error { return second(c.secrets.BatchGetSecretValue(t.Context(), in)) }
	}
	create := func(in *sm.CreateSecretInput) func() error {
		return func() error { return second(c.secrets.CreateSecret(t.Context(), in)) }
	}
	put := func(in *sm.PutSecretValueInput) func() error {
		in.SecretId = aws.String("a")
		return func() error { return second(c.secrets.PutSecretValue(t.Context(), in)) }
	}
	move := func(in *sm.UpdateSecretVersionStageInput) func() error {
		in.SecretId = aws.String("a")
		return func() error { return second(c.secrets.UpdateSecretVersionStage(t.Context(), in)) }
	}
	remove := func(in *sm.DeleteSecretInput) func() error {
		in.SecretId = aws.String("a")
		return func() error { return second(c.secrets.DeleteSecret(t.Context(), in)) }
	}
	other := strings.Repeat("0", 32)
	expectRefusals(t, http.StatusBadRequest, []refusal{
		{"a secret that is not there", get("b"), "ResourceNotFoundException", "Secrets Manager can't find the specified secret."},
		{"a secret of another account", get("arn:aws:secretsmanager:eu-west-1:210987654321:secret:a-AbCdEf"), "ResourceNotFoundException", ""},
		{"a version that is not there", get("a", id(other)), "ResourceNotFoundException", "specified secret value for VersionId: " + other},
		{"a stage that is not there", get("a", stage("blue")), "ResourceNotFoundException", "specified secret value for staging label: blue"},
		{"a secret without a value", get("empty"), "ResourceNotFoundException", "staging label: AWSCURRENT"},
		{"a stage of another version", get("a", id(version), stage("AWSCURRENT")), "InvalidRequestException", "not associated to the provided VersionId."},
		{"a version ID that is too short", get("a", id("1")), "ValidationException",
			"1 validation error detected: Value '1' at 'versionId' failed to satisfy constraint: Member must have length greater than or equal to 32"},
		{"two mistakes", get("", id("1")), "ValidationException", "2 validation errors detected: Value '' at 'secretId' failed"},
		{"a batch of nothing", batch(&sm.BatchGetSecretValueInput{}), "InvalidParameterException", "Either 'SecretIdList' or 'Filters' must be provided, but not both."},
		{"a batch of 21", batch(&sm.BatchGetSecretValueInput{SecretIdList: slices.Repeat([]string{"a"}, 21)}), "ValidationException", "at 'secretIdList' failed to satisfy constraint: Member must have length less than or equal to 20"},
		{"a page of a list", batch(&sm.BatchGetSecretValueInput{SecretIdList: []string{"a"}, MaxResults: aws.Int32(1)}), "InvalidParameterException", "'Filters' must also be specified"},
		{"a page that is none", batch(&sm.BatchGetSecretValueInput{SecretIdList: []string{"a"}, NextToken: aws.String("MQ==")}), "InvalidNextTokenException", ""},
		{"a secret that is there", create(&sm.CreateSecretInput{Name: aws.String("a"), SecretString: aws.String("x")}), "ResourceExistsException", "the secret a already exists."},
		{"a name with a space", create(&sm.CreateSecretInput{Name: aws.String("a b")}), "ValidationException", "Invalid name."},
		{"text and bytes", create(&sm.CreateSecretInput{Name: aws.String("b"), SecretString: aws.String("x"), SecretBinary: []byte("y")}), "InvalidParameterException", "both a binary secret value and a string"},
		{"a value that is too large", put(&sm.PutSecretValueInput{SecretString: aws.String(strings.Repeat("x", 65537))}), "ValidationException",
			"Value at 'secretString' failed to satisfy constraint: Member must have length less than or equal to 65536"},
		{"a value that is too large in bytes", put(&sm.PutSecretValueInput{SecretString: aws.String(strings.Repeat("ä", 40000))}), "ValidationException", "at 'secretString'"},
		{"no value", put(&sm.PutSecretValueInput{}), "InvalidRequestException", "either SecretString or SecretBinary"},
		{"a version ID that is taken", put(&sm.PutSecretValueInput{SecretString: aws.String("x"), ClientRequestToken: &version}), "ResourceExistsException", "already in use for a version of secret arn:aws:"},
		{"a stage that is elsewhere", move(&sm.UpdateSecretVersionStageInput{VersionStage: aws.String("AWSCURRENT"), MoveToVersionId: &version}), "InvalidParameterException", "RemoveFromVersionId can't be empty."},
		{"a stage that is not where it is said", move(&sm.UpdateSecretVersionStageInput{VersionStage: aws.String("AWSCURRENT"), RemoveFromVersionId: &version}), "InvalidParameterException", "does not have the staging label"},
		{"a stage for no version", move(&sm.UpdateSecretVersionStageInput{VersionStage: aws.String("blue"), MoveToVersionId: &other}), "ResourceNotFoundException", "for VersionId"},
		{"six days", remove(&sm.DeleteSecretInput{RecoveryWindowInDays: aws.Int64(6)}), "InvalidParameterException", "between 7 and 30 days"},
		{"at once and later", remove(&sm.DeleteSecretInput{RecoveryWindowInDays: aws.Int64(7), ForceDeleteWithoutRecovery: aws.Bool(true)}), "InvalidParameterException", "in conjunction with"},
		{"a filter that is none", func() error {
			return second(c.secrets.ListSecrets(t.Context(), &sm.ListSecretsInput{Filters: []types.Filter{{Key: "color", Values: []string{"red"}}}}))
		}, "ValidationException", "enum value set"},
		{"an operation that is none here", func() error { return second(c.secrets.GetRandomPassword(t.Context(), &sm.GetRandomPasswordInput{})) }, "UnknownOperationException", "GetRandomPassword"},
		{"a member that is none here", func() error {
			return second(c.secrets.CreateSecret(t.Context(), &sm.CreateSecretInput{Name: aws.String("b"), Type: aws.String("x")}))
		}, "SerializationException", `unknown field "Type"`},
	})
}

func TestWritingAgainIsNoError(t *testing.T) {
	c := newClient(t, awstest.New(t, nil))
	create := &sm.CreateSecretInput{Name: aws.String("a"), SecretString: aws.String("x"), ClientRequestToken: aws.String(strings.Repeat("1", 32))}
	put := &sm.PutSecretValueInput{SecretId: aws.String("a"), SecretString: aws.String("y"), ClientRequestToken: aws.String(strings.Repeat("2", 32))}
	for range 2 {
		must[*sm.CreateSecretOutput](t)(c.secrets.CreateSecret(t.Context(), create))
		must[*sm.PutSecretValueOutput](t)(c.secrets.PutSecretValue(t.Context(), put))
	}
	if n := len(c.stages(t, "a")); n != 2 {
		t.Errorf("%d versions, want 2", n)
	}
}
