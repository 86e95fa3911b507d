package aws

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// What the machine has in its environment is nothing to these tests.
func TestMain(m *testing.M) {
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "AWS_") {
			_ = os.Unsetenv(name)
		}
	}
	_ = os.Setenv("AWS_CONFIG_FILE", os.DevNull)
	_ = os.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
	_ = os.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	os.Exit(m.Run())
}

const (
	testRegion  = "eu-west-1"
	otherRegion = "us-west-2"
	testRole    = "arn:aws:iam::123456789012:role/shop"
)

func newProvider(t testing.TB, opts *Options) *Provider {
	t.Helper()
	p, err := New(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

// ask returns a request of a pod of shop/web, with a class of the parameters.
func ask(parameters map[string]string) *provider.Request {
	all := map[string]string{"region": testRegion, "roleArn": testRole}
	maps.Copy(all, parameters)
	return &provider.Request{
		Class:      "shop/class",
		Parameters: all,
		Pod:        provider.Pod{Namespace: "shop", Name: "web-0", UID: "u", ServiceAccount: "web"},
		Tokens: provider.Tokens{
			webIdentityAudience: {Value: secret.New([]byte("t1")), Expires: time.Now().Add(time.Hour)},
			podIdentityAudience: {Value: secret.New([]byte("t2")), Expires: time.Now().Add(time.Hour)},
		},
		Mode: 0o644,
	}
}

// asked is what a query says, for comparing.
func asked(q *query) []string {
	var lines []string
	for _, r := range q.reads {
		lines = append(lines, fmt.Sprintf("%s %v", r.service, r.targets))
	}
	for _, o := range q.objects {
		for _, f := range o.files() {
			lines = append(lines, fmt.Sprintf("%s %04o of %d", f.path, f.mode, o.read.index))
		}
	}
	return lines
}

const secretARN = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:shop/db-AbCdEf"

func TestClassesOfTheUpstreamProviderMeanWhatTheyMeant(t *testing.T) {
	p := newProvider(t, nil)
	for _, c := range []struct {
		name       string
		objects    string
		parameters map[string]string
		want       []string
	}{
		{"a name and a type", `- {objectName: db, objectType: secretsmanager}`, nil,
			[]string{`secretsmanager ["db"]`, "db 0644 of 0"}},
		{"keys in any case", `- {ObjectName: db, OBJECTTYPE: secretsmanager, objectalias: x}`, nil,
			[]string{`secretsmanager ["db"]`, "x 0644 of 0"}},
		{"keys that nobody knows", `- {objectName: db, objectType: ssmparameter, colour: red}`, nil,
			[]string{`ssmparameter ["db"]`, "db 0644 of 0"}},
		{"an ARN says its type, and keeps its colons", `- objectName: ` + secretARN, nil,
			[]string{`secretsmanager ["` + secretARN + `"]`, strings.ReplaceAll(secretARN, "/", "_") + " 0644 of 0"}},
		{"the ARN of a parameter", `- objectName: "arn:aws:ssm:eu-west-1:123456789012:parameter/app/db"`, nil,
			[]string{`ssmparameter ["arn:aws:ssm:eu-west-1:123456789012:parameter/app/db"]`, "arn:aws:ssm:eu-west-1:123456789012:parameter_app_db 0644 of 0"}},
		{"a permission in quotes, and one that YAML reads as a number", `[{objectName: a, objectType: ssmparameter, filePermission: "0600"}, {objectName: b, objectType: ssmparameter, filePermission: 0440}]`, nil,
			[]string{`ssmparameter ["a"]`, `ssmparameter ["b"]`, "a 0600 of 0", "b 0440 of 1"}},
		{"numbers are text", `- {objectName: 0123, objectType: ssmparameter, objectVersion: 12}`, nil,
			[]string{`ssmparameter ["0123" version "12"]`, "0123 0644 of 0"}},
		{"slashes become underscores, also the first one and those of an alias", `[{objectName: /app/db, objectType: ssmparameter}, {objectName: x, objectAlias: y/z, objectType: ssmparameter}]`, nil,
			[]string{`ssmparameter ["/app/db"]`, `ssmparameter ["x"]`, "_app_db 0644 of 0", "y_z 0644 of 1"}},
		{"or another character", `- {objectName: /app/db, objectType: ssmparameter}`, map[string]string{"pathTranslation": "-"},
			[]string{`ssmparameter ["/app/db"]`, "-app-db 0644 of 0"}},
		{"or folders", `- {objectName: /app/db, objectType: ssmparameter}`, map[string]string{"pathTranslation": "FALSE"},
			[]string{`ssmparameter ["/app/db"]`, "app/db 0644 of 0"}},
		{"one parameter with two labels is two files", `[{objectName: p, objectAlias: a, objectType: ssmparameter, objectVersionLabel: blue}, {objectName: p, objectAlias: b, objectType: ssmparameter, objectVersionLabel: green}]`, nil,
			[]string{`ssmparameter ["p" label "blue"]`, `ssmparameter ["p" label "green"]`, "a 0644 of 0", "b 0644 of 1"}},
		{"one secret for two files is read once", `[{objectName: s, objectAlias: a, objectType: secretsmanager}, {objectName: s, objectAlias: b, objectType: secretsmanager}]`, nil,
			[]string{`secretsmanager ["s"]`, "a 0644 of 0", "b 0644 of 0"}},
		{"a version and a stage", `- {objectName: s, objectType: secretsmanager, objectVersion: v1, objectVersionLabel: AWSPREVIOUS}`, nil,
			[]string{`secretsmanager ["s" version "v1" label "AWSPREVIOUS"]`, "s 0644 of 0"}},
		{"parts of JSON have the permission of their parent, or their own", `[{objectName: s, objectType: secretsmanager, filePermission: "0400", jmesPath: [{path: user, objectAlias: u}, {Path: pass, objectAlias: d/p, filePermission: "0440"}]}]`, nil,
			[]string{`secretsmanager ["s"]`, "s 0400 of 0", "u 0400 of 0", "d_p 0440 of 0"}},
		{"a second region has the same name", `- {objectName: s, objectType: secretsmanager}`, map[string]string{"failoverRegion": otherRegion},
			[]string{`secretsmanager ["s" "s"]`, "s 0644 of 0"}},
		{"or another one", `- {objectName: s, objectAlias: a, objectType: secretsmanager, objectVersionLabel: x, failoverObject: {objectName: t, objectVersionLabel: y}}`, map[string]string{"failoverRegion": otherRegion},
			[]string{`secretsmanager ["s" label "x" "t" label "y"]`, "a 0644 of 0"}},
		{"an array of texts, as other providers have it", "array:\n- |\n  objectName: s\n  objectType: secretsmanager\n", nil,
			[]string{`secretsmanager ["s"]`, "s 0644 of 0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			parameters := map[string]string{"objects": c.objects}
			maps.Copy(parameters, c.parameters)
			q, err := p.parse(ask(parameters))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, asked(q)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Every error is found before any call, and begins as people know it.
func TestClassesThatCannotBeMeantAreRefused(t *testing.T) {
	p := newProvider(t, nil)
	failover := map[string]string{"failoverRegion": otherRegion}
	for _, c := range []struct {
		name, objects string
		parameters    map[string]string
		want          string
	}{
		{"no objects", "", nil, `Failed to load SecretProviderClass: parameter "objects" lists nothing`},
		{"objects that are no list", "a: b", nil, `Failed to load SecretProviderClass: parameter "objects" is a map, want a list`},
		{"an empty entry", "-", nil, `objects[0] is empty, want fields`},
		{"no name", "- objectType: secretsmanager", nil, "objects[0]: Object name must be specified"},
		{"no type", "- objectName: db", nil, "objects[0]: Must use objectType when a full ARN is not specified: db"},
		{"the type of an API", "- {objectName: db, objectType: ssm}", nil, "objects[0]: Invalid objectType: ssm"},
		{"half an ARN", "- objectName: arn:aws", nil, "Invalid ARN format in object name: arn:aws"},
		{"the ARN of another region", "- objectName: arn:aws:secretsmanager:us-east-1:1:secret:x", nil, "ARN region must match region eu-west-1: arn:aws:secretsmanager:us-east-1:1:secret:x"},
		{"the ARN of another service", "- objectName: arn:aws:s3:eu-west-1:1:x", nil, "Invalid service in ARN: s3"},
		{"an ARN of the name that types have", "- objectName: arn:aws:ssmparameter:eu-west-1:1:x", nil, "Invalid service in ARN: ssmparameter"},
		{"an ARN and another type", "- {objectType: ssmparameter, objectName: " + secretARN + "}", nil, "objectType does not match ARN: " + secretARN},
		{"a parameter with version and label", "- {objectName: p, objectType: ssmparameter, objectVersion: 1, objectVersionLabel: a}", nil, "ssm parameters can not specify both objectVersion and objectVersionLabel: p"},
		{"a permission that is none", `- {objectName: p, objectType: ssmparameter, filePermission: "0888"}`, nil, "objects[0].filePermission: want permission bits"},
		{"a part without a path", "- {objectName: s, objectType: secretsmanager, jmesPath: [{objectAlias: a}]}", nil, "objects[0]: jmesPath[0]: Path must be specified for JMES object"},
		{"a part without an alias", "- {objectName: s, objectType: secretsmanager, jmesPath: [{path: a}]}", nil, "objects[0]: jmesPath[0]: Object alias must be specified for JMES object"},
		{"a part with bad syntax", "- {objectName: s, objectType: secretsmanager, jmesPath: [{path: 'a[', objectAlias: a}]}", nil, "objects[0]: jmesPath[0]: Invalid JMES Path: a["},
		{"a part with a long path", "- {objectName: s, objectType: secretsmanager, jmesPath: [{path: '" + strings.Repeat("a", maxPath+1) + "', objectAlias: a}]}", nil, "Invalid JMES Path: longer than"},
		{"a failover object without its region", "- {objectName: s, objectAlias: a, objectType: secretsmanager, failoverObject: {objectName: t}}", nil, "failover object allowed only when failover region is defined: s"},
		{"a failover object without alias", "- {objectName: s, objectType: secretsmanager, failoverObject: {objectName: t}}", failover, "object alias must be specified for objects with failover entries: s"},
		{"a failover object of another version", "- {objectName: s, objectAlias: a, objectType: secretsmanager, objectVersion: v, failoverObject: {objectName: t}}", failover, "object versions must match between primary and failover regions: s"},
		{"a failover object of another region", "- {objectName: s, objectAlias: a, objectType: secretsmanager, failoverObject: {objectName: " + secretARN + "}}", failover, "ARN region must match region us-west-2: " + secretARN},
		{"an ARN that is nowhere else", "- objectName: " + secretARN, failover, "say in failoverObject what it is there"},
		{"one region twice", "- {objectName: s, objectType: secretsmanager}", map[string]string{"failoverRegion": testRegion}, "eu-west-1: failover region cannot be the same as the primary region"},
		{"a region that leads elsewhere", "- {objectName: s, objectType: secretsmanager}", map[string]string{"region": "evil.example/"}, `"evil.example/" is no name of an AWS region`},
		{"a translation of two characters", "- {objectName: s, objectType: secretsmanager}", map[string]string{"pathTranslation": "--"}, "pathTranslation must be either 'False' or a single character string"},
		{"a path out of the volume", "- {objectName: a/../../b, objectType: secretsmanager}", map[string]string{"pathTranslation": "False"}, `a/../../b`},
		{"a part out of the volume", "- {objectName: s, objectType: secretsmanager, jmesPath: [{path: a, objectAlias: ../b}]}", map[string]string{"pathTranslation": "False"}, `../b`},
		{"a bare dot dot", "- {objectName: .., objectType: secretsmanager}", nil, `..`},
		{"usePodIdentity that is neither", "- {objectName: s, objectType: secretsmanager}", map[string]string{"usePodIdentity": "yes"}, "failed to parse usePodIdentity value, error:"},
		{"two ways to log in", "- {objectName: s, objectType: secretsmanager}", map[string]string{"usePodIdentity": "true", "useNodeCredentials": "true", "roleArn": ""}, "exclude each other"},
		{"a role for Pod Identity", "- {objectName: s, objectType: secretsmanager}", map[string]string{"usePodIdentity": "true"}, "roleArn is for web identities"},
		{"a role that is none", "- {objectName: s, objectType: secretsmanager}", map[string]string{"roleArn": "shop"}, "roleArn is no ARN of an IAM role: shop"},
		{"an external ID for nobody", "- {objectName: s, objectType: secretsmanager}", map[string]string{"externalId": "x"}, "externalId is for the role that assumeRoleArn names"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parameters := map[string]string{"objects": c.objects}
			maps.Copy(parameters, c.parameters)
			_, err := p.parse(ask(parameters))
			if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("parse = %v, want ErrInvalid with %q", err, c.want)
			}
		})
	}
}

// Two objects that make one file lost one of the two in silence.
func TestFilesThatCollideNameBothObjects(t *testing.T) {
	p := newProvider(t, nil)
	for _, c := range []struct{ name, objects, want string }{
		{"one name twice", `[{objectName: x, objectType: secretsmanager}, {objectName: x, objectType: secretsmanager}]`,
			"found descriptor with duplicate object name x: objects[0] (x) and objects[1] (x)"},
		{"one name of two services", `[{objectName: x, objectType: secretsmanager}, {objectName: x, objectType: ssmparameter}]`,
			"found descriptor with duplicate object name x: objects[0] (x) and objects[1] (x)"},
		{"one name with two labels and no alias", `[{objectName: x, objectType: ssmparameter, objectVersionLabel: a}, {objectName: x, objectType: ssmparameter, objectVersionLabel: b}]`,
			"found descriptor with duplicate object name x: objects[0] (x) and objects[1] (x)"},
		{"one alias twice", `[{objectName: x, objectAlias: a, objectType: secretsmanager}, {objectName: y, objectAlias: a, objectType: secretsmanager}]`,
			"found duplicate object alias a: objects[0] (x) and objects[1] (y)"},
		{"an alias that is another's name", `[{objectName: x, objectType: secretsmanager}, {objectName: y, objectAlias: x, objectType: secretsmanager}]`,
			`objects[0] (x) and objects[1] (y) both make the file "x"`},
		{"names that are one when translated", `[{objectName: a/b, objectType: secretsmanager}, {objectName: a_b, objectType: secretsmanager}]`,
			`objects[0] (a/b) and objects[1] (a_b) both make the file "a_b"`},
		{"a part and an object", `[{objectName: x, objectType: secretsmanager, jmesPath: [{path: a, objectAlias: y}]}, {objectName: y, objectType: secretsmanager}]`,
			`objects[0].jmesPath[0] (x) and objects[1] (y) both make the file "y"`},
		{"two parts", `[{objectName: x, objectType: secretsmanager, jmesPath: [{path: a, objectAlias: y}, {path: b, objectAlias: y}]}]`,
			`found duplicate object alias y: objects[0].jmesPath[0] (x) and objects[0].jmesPath[1] (x)`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := p.parse(ask(map[string]string{"objects": c.objects}))
			if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("parse = %v, want ErrInvalid with %q", err, c.want)
			}
		})
	}
}

func TestAFileCannotBeAFolderToo(t *testing.T) {
	_, err := newProvider(t, nil).parse(ask(map[string]string{
		"pathTranslation": "False", "objects": `[{objectName: a, objectType: secretsmanager}, {objectName: a/b, objectType: secretsmanager}]`,
	}))
	if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), `"a/b"`) {
		t.Error(err)
	}
}

func TestAClassHasABound(t *testing.T) {
	var objects strings.Builder
	for i := range maxFiles + 1 {
		fmt.Fprintf(&objects, "- {objectName: n%d, objectType: secretsmanager}\n", i)
	}
	_, err := newProvider(t, nil).parse(ask(map[string]string{"objects": objects.String()}))
	if !errors.Is(err, provider.ErrInvalid) || !strings.Contains(err.Error(), "the limit is 1024") {
		t.Error(err)
	}
}

// What a class names counts before a flag, that before the environment, and that
// before the node's label.
func TestWhereTheRegionComesFrom(t *testing.T) {
	const label, variable, flag, class = "eu-north-1", "eu-west-2", "eu-west-3", "eu-central-1"
	for _, c := range []struct{ name, variable, flag, class, want string }{
		{"the label", "", "", "", label},
		{"the environment", variable, "", "", variable},
		{"the flag", variable, flag, "", flag},
		{"the class", variable, flag, class, class},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("AWS_REGION", c.variable)
			req := ask(map[string]string{"objects": "- {objectName: s, objectType: secretsmanager}", "region": c.class})
			if c.want == label {
				req.Facts = provider.Facts{provider.NodeLabel(regionLabel): label}
			}
			q, err := newProvider(t, &Options{Region: c.flag}).parse(req)
			if err != nil || len(q.regions) != 1 || q.regions[0] != c.want {
				t.Errorf("parse = %v, %v, want region %s", q, err, c.want)
			}
		})
	}
}

func FuzzObjects(f *testing.F) {
	f.Add(`- {objectName: db, objectType: secretsmanager}`, "_", "")
	f.Add(`- {objectName: `+secretARN+`, jmesPath: [{path: "a.b", objectAlias: c}]}`, "False", otherRegion)
	f.Add(`- {objectName: s, objectAlias: a, objectType: ssmparameter, failoverObject: {objectName: t}}`, "", otherRegion)
	p := newProvider(f, nil)
	f.Fuzz(func(t *testing.T, objects, translation, failover string) {
		q, err := p.parse(ask(map[string]string{"objects": objects, "pathTranslation": translation, "failoverRegion": failover}))
		if err != nil {
			if provider.Reason(err) != "Invalid" {
				t.Errorf("parse = %v, want ErrInvalid", err)
			}
			return
		}
		files := make(map[string]bool)
		for _, o := range q.objects {
			if o.read == nil || len(o.read.targets) != len(q.regions) {
				t.Errorf("object %q is not read in each region", o.name)
			}
			for _, file := range o.files() {
				if files[file.path] {
					t.Errorf("file %q is made twice", file.path)
				}
				files[file.path] = true
			}
		}
	})
}
