package aws

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/aws/awstest"
)

// counts returns how often each operation was called since the last time.
func (b *backend) counts() map[string]int {
	counts := make(map[string]int)
	for _, call := range b.Calls() {
		counts[call.Operation]++
	}
	b.Forget()
	return counts
}

// fetch returns what a request gets, which must be no error.
func (b *backend) fetch(t testing.TB, req *provider.Request) *provider.Bundle {
	t.Helper()
	bundle, err := b.provider.Fetch(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if err := bundle.Validate(); err != nil {
		t.Fatal(err)
	}
	return bundle
}

// contents returns the files of a bundle.
func contents(bundle *provider.Bundle) map[string]string {
	files := make(map[string]string)
	for _, f := range bundle.Files {
		files[f.Path] = string(f.Data.Reveal())
	}
	return files
}

// poll fetches again for a volume that holds the bundle.
func (b *backend) poll(t testing.TB, req *provider.Request, held *provider.Bundle) *provider.Bundle {
	t.Helper()
	req.Held.Versions = held.Versions
	return b.fetch(t, req)
}

// list returns so many objects of a service.
func list(service service, names ...string) string {
	var objects strings.Builder
	for _, name := range names {
		fmt.Fprintf(&objects, "- {objectName: %q, objectType: %s}\n", name, service)
	}
	return objects.String()
}

func numbered(prefix string, n int) []string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf("%s%02d", prefix, i)
	}
	return names
}

func expect(t testing.TB, what string, got, want any) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// The numbers of docs/providers/aws.md.
func TestWhatVolumesCost(t *testing.T) {
	const volumes = 50
	for _, c := range []struct {
		name        string
		service     service
		objects     int
		deny        []string
		start, poll map[string]int // of all volumes
	}{
		{"5 secrets", secretsManager, 5, nil,
			map[string]int{"sts:AssumeRoleWithWebIdentity": 1, "secretsmanager:BatchGetSecretValue": volumes},
			map[string]int{"secretsmanager:BatchGetSecretValue": volumes}},
		{"1 secret", secretsManager, 1, nil,
			map[string]int{"sts:AssumeRoleWithWebIdentity": 1, "secretsmanager:GetSecretValue": volumes},
			map[string]int{"secretsmanager:DescribeSecret": volumes}},
		{"45 secrets", secretsManager, 45, nil,
			map[string]int{"sts:AssumeRoleWithWebIdentity": 1, "secretsmanager:BatchGetSecretValue": 3 * volumes},
			map[string]int{"secretsmanager:BatchGetSecretValue": 3 * volumes}},
		{"5 secrets of an identity that may not batch", secretsManager, 5, []string{"secretsmanager:BatchGetSecretValue"},
			map[string]int{"sts:AssumeRoleWithWebIdentity": 1, "secretsmanager:BatchGetSecretValue": 1, "secretsmanager:GetSecretValue": 5 * volumes},
			map[string]int{"secretsmanager:DescribeSecret": 5 * volumes}},
		{"5 secrets of an identity that may only get", secretsManager, 5, []string{"secretsmanager:BatchGetSecretValue", "secretsmanager:DescribeSecret"},
			map[string]int{"sts:AssumeRoleWithWebIdentity": 1, "secretsmanager:BatchGetSecretValue": 1, "secretsmanager:GetSecretValue": 5 * volumes},
			map[string]int{"secretsmanager:DescribeSecret": 5, "secretsmanager:GetSecretValue": 5 * volumes}},
		{"5 parameters", parameterStore, 5, nil,
			map[string]int{"sts:AssumeRoleWithWebIdentity": 1, "ssm:GetParameters": volumes},
			map[string]int{"ssm:GetParameters": volumes}},
		{"25 parameters", parameterStore, 25, nil,
			map[string]int{"sts:AssumeRoleWithWebIdentity": 1, "ssm:GetParameters": 3 * volumes},
			map[string]int{"ssm:GetParameters": 3 * volumes}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackendOf(t, c.service, nil)
			names := numbered("n", c.objects)
			for _, name := range names {
				b.Put(t, name, []byte(name))
			}
			for _, action := range c.deny {
				b.Server.Deny(testRole, action, "")
			}
			b.Forget()
			objects := list(c.service, names...)
			bundles := make([]*provider.Bundle, volumes)
			for i := range bundles {
				bundles[i] = b.fetch(t, b.ask(objects))
				if len(bundles[i].Files) != c.objects {
					t.Fatalf("%d files, want %d", len(bundles[i].Files), c.objects)
				}
			}
			expect(t, "calls at the start", b.counts(), c.start)
			for _, bundle := range bundles {
				if !b.poll(t, b.ask(objects), bundle).Unchanged {
					t.Fatal("a poll found a change that is none")
				}
			}
			expect(t, "calls of a poll", b.counts(), c.poll)
		})
	}
}

func TestVolumesThatStartAtOnceShareALogin(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("x"))
	b.Forget()
	var pods sync.WaitGroup
	for range 50 {
		req := b.ask(list(secretsManager, "db"))
		pods.Go(func() { b.fetch(t, req) })
	}
	pods.Wait()
	expect(t, "logins", b.counts()["sts:AssumeRoleWithWebIdentity"], 1)
}

func TestAChangeCostsOneMoreCallAndIsSeen(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("one"))
	objects := list(secretsManager, "db")
	held := b.fetch(t, b.ask(objects))
	version := b.home.PutSecret("db", []byte("two"))
	b.Forget()
	held = b.poll(t, b.ask(objects), held)
	expect(t, "calls", b.counts(), map[string]int{"secretsmanager:DescribeSecret": 1, "secretsmanager:GetSecretValue": 1})
	expect(t, "files", contents(held), map[string]string{"db": "two"})
	expect(t, "versions", held.Versions, provider.Versions{"db": version})
}

func TestWhatIsPinnedCostsNothing(t *testing.T) {
	b := newBackend(t)
	version := b.home.PutSecret("db", []byte("one"))
	b.home.PutSecret("db", []byte("two"))
	b.home.PutParameter("p", "one")
	b.home.PutParameter("p", "two")
	objects := fmt.Sprintf("[{objectName: db, objectType: secretsmanager, objectVersion: %s}, {objectName: p, objectType: ssmparameter, objectVersion: 1}]", version)
	held := b.fetch(t, b.ask(objects))
	expect(t, "files", contents(held), map[string]string{"db": "one", "p": "one"})
	b.Forget()
	if !b.poll(t, b.ask(objects), held).Unchanged {
		t.Error("a pinned version changed")
	}
	expect(t, "calls", b.counts(), map[string]int{})
}

func TestStagesAndLabelsMove(t *testing.T) {
	b := newBackend(t)
	first := b.home.PutSecret("db", []byte("one"))
	second := b.home.PutSecret("db", []byte("two"))
	b.home.StageSecret("db", "blue", first)
	b.home.PutParameter("p", "one")
	b.home.PutParameter("p", "two")
	b.home.LabelParameter("p", 1, "blue")
	objects := "[{objectName: db, objectType: secretsmanager, objectVersionLabel: blue}, {objectName: p, objectType: ssmparameter, objectVersionLabel: blue}]"
	held := b.fetch(t, b.ask(objects))
	expect(t, "files", contents(held), map[string]string{"db": "one", "p": "one"})
	if held = b.poll(t, b.ask(objects), held); !held.Unchanged {
		t.Error("a poll found a change that is none")
	}
	b.home.StageSecret("db", "blue", second)
	b.home.LabelParameter("p", 2, "blue")
	expect(t, "files after the move", contents(b.poll(t, b.ask(objects), held)), map[string]string{"db": "two", "p": "two"})
}

// One parameter twice in a call used to give both files one of its values.
func TestOneParameterInTwoVersionsIsTwoValues(t *testing.T) {
	b := newBackend(t)
	b.home.PutParameter("/app/p", "one")
	b.home.PutParameter("/app/p", "two")
	b.home.PutParameter("q", "three")
	b.home.LabelParameter("/app/p", 1, "old")
	b.Forget()
	bundle := b.fetch(t, b.ask(`
- {objectName: /app/p, objectType: ssmparameter, objectAlias: a, objectVersionLabel: old}
- {objectName: /app/p, objectType: ssmparameter, objectAlias: b}
- {objectName: "arn:aws:ssm:eu-west-1:123456789012:parameter/app/p", objectAlias: c, objectVersion: 1}
- {objectName: q, objectType: ssmparameter}
`))
	expect(t, "files", contents(bundle), map[string]string{"a": "one", "b": "two", "c": "one", "q": "three"})
	expect(t, "calls", b.counts()["ssm:GetParameters"], 3)
}

// A parameter that is made anew begins at version 1 again.
func TestAParameterThatIsMadeAnewHasAnotherVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackendOf(t, parameterStore, &awstest.Options{Pipe: true})
		b.home.PutParameter("p", "one")
		held := b.fetch(t, b.ask(list(parameterStore, "p")))
		time.Sleep(time.Second)
		b.home.DeleteParameter("p")
		b.home.PutParameter("p", "two")
		expect(t, "files", contents(b.poll(t, b.ask(list(parameterStore, "p")), held)), map[string]string{"p": "two"})
	})
}

func TestSecretsAreCalledByNameAndARN(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("app/a", []byte("1"))
	b.home.PutSecret("app/b", []byte("2"))
	b.home.PutSecret("app/c", []byte{0, 255, 1})
	full, partial := b.home.SecretARN("app/b"), b.home.SecretARN("app/c")
	partial = partial[:len(partial)-len("-AbCdEf")]
	bundle := b.fetch(t, b.ask(fmt.Sprintf(`
- {objectName: app/a, objectType: secretsmanager, objectAlias: name}
- {objectName: %q, objectAlias: arn}
- {objectName: %q, objectAlias: partial}
`, full, partial)))
	expect(t, "files", contents(bundle), map[string]string{"name": "1", "arn": "2", "partial": "\x00\xff\x01"})
	expect(t, "single reads", b.Count("secretsmanager:GetSecretValue"), 0)
}

func TestABatchOfLargeSecretsIsReadToItsEnd(t *testing.T) {
	b := newBackend(t)
	names := numbered("large", 20)
	want := make(map[string]string)
	for _, name := range names {
		want[name] = name + strings.Repeat("x", 60<<10)
		b.home.PutSecret(name, []byte(want[name]))
	}
	b.Forget()
	expect(t, "files", contents(b.fetch(t, b.ask(list(secretsManager, names...)))), want)
	if calls := b.counts(); calls["secretsmanager:BatchGetSecretValue"] < 2 || calls["secretsmanager:GetSecretValue"] > 0 {
		t.Errorf("calls %v, want several pages and nothing else", calls)
	}
}

// What was refused once is not asked for at each poll, and not for ever.
func TestRefusalsAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackendOf(t, secretsManager, &awstest.Options{Pipe: true})
		names := numbered("n", 3)
		for _, name := range names {
			b.home.PutSecret(name, []byte(name))
		}
		b.Server.Deny(testRole, "secretsmanager:BatchGetSecretValue", "")
		objects := list(secretsManager, names...)
		held := b.fetch(t, b.ask(objects))
		b.Forget()
		for range 10 {
			time.Sleep(time.Minute)
			b.poll(t, b.ask(objects), held)
		}
		calls := b.counts()
		delete(calls, "sts:AssumeRoleWithWebIdentity")
		expect(t, "calls of ten polls", calls, map[string]int{"secretsmanager:DescribeSecret": 30})
		b.Server.Allow(testRole, "secretsmanager:BatchGetSecretValue", "")
		time.Sleep(memoryLife)
		b.poll(t, b.ask(objects), held)
		expect(t, "batches after an hour", b.counts()["secretsmanager:BatchGetSecretValue"], 1)
	})
}

func TestCallsThatAreThrottledAreMadeAgain(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("x"))
	b.home.PutParameter("p", "y")
	b.home.Fail("secretsmanager:GetSecretValue", awstest.Fault{Status: http.StatusBadRequest, Code: "ThrottlingException", Times: 2})
	b.home.Fail("ssm:GetParameters", awstest.Fault{Status: http.StatusServiceUnavailable, Code: "InternalServerError", Times: 1})
	b.Forget()
	b.fetch(t, b.ask(list(secretsManager, "db")+list(parameterStore, "p")))
	expect(t, "calls", b.counts(), map[string]int{"sts:AssumeRoleWithWebIdentity": 1, "secretsmanager:GetSecretValue": 3, "ssm:GetParameters": 2})
}

// A gauge counts the requests that are in progress.
type gauge struct {
	next http.RoundTripper

	mu        sync.Mutex
	now, most int
}

func (g *gauge) RoundTrip(req *http.Request) (*http.Response, error) {
	g.add(1)
	defer g.add(-1)
	return g.next.RoundTrip(req)
}

func (g *gauge) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += n
	g.most = max(g.most, g.now)
}

// One volume with many secrets does not keep the store from all others.
func TestAFetchMakesFewCallsAtOnce(t *testing.T) {
	b := newBackend(t)
	var objects strings.Builder
	for _, name := range numbered("n", 5*maxParallel) {
		version := b.home.PutSecret(name, []byte(name))
		fmt.Fprintf(&objects, "- {objectName: %s, objectType: secretsmanager, objectVersion: %s}\n", name, version)
	}
	g := &gauge{next: b.provider.settings.http.Transport}
	b.provider.settings.http.Transport = g
	b.fetch(t, b.ask(objects.String()))
	if g.most < 2 || g.most > maxParallel {
		t.Errorf("%d calls at once, want several and at most %d", g.most, maxParallel)
	}
}

func TestAnOptionalObjectComesAndGoes(t *testing.T) {
	for _, service := range []service{secretsManager, parameterStore} {
		t.Run(string(service), func(t *testing.T) {
			b := newBackendOf(t, service, nil)
			b.Put(t, "there", []byte("x"))
			objects := list(service, "there") + fmt.Sprintf("- {objectName: maybe, objectType: %s, optional: true}\n", service)
			held := b.fetch(t, b.ask(objects))
			expect(t, "files", slices.Collect(maps.Keys(contents(held))), []string{"there"})
			if !b.poll(t, b.ask(objects), held).Unchanged {
				t.Error("what is still absent is a change")
			}
			b.Put(t, "maybe", []byte("y"))
			if held = b.poll(t, b.ask(objects), held); len(held.Files) != 2 {
				t.Errorf("%d files, want both", len(held.Files))
			}
			b.Delete(t, "maybe")
			if held = b.poll(t, b.ask(objects), held); len(held.Files) != 1 {
				t.Errorf("%d files, want one", len(held.Files))
			}
		})
	}
}
