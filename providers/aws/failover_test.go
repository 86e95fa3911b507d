package aws

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/aws/awstest"
)

// twoRegions returns a backend whose regions have other values, and a request
// for two secrets and a parameter.
func twoRegions(t testing.TB, opts *awstest.Options) (*backend, func() *provider.Request) {
	t.Helper()
	b := newBackendOf(t, secretsManager, opts)
	for _, r := range []struct {
		region *awstest.Region
		suffix string
	}{{b.home, " at home"}, {b.away, " away"}} {
		r.region.PutSecret("a", []byte("a"+r.suffix))
		r.region.PutSecret("b", []byte("b"+r.suffix))
		r.region.PutParameter("p", "p"+r.suffix)
	}
	objects := list(secretsManager, "a", "b") + list(parameterStore, "p")
	return b, func() *provider.Request { return b.ask(objects, map[string]string{"failoverRegion": otherRegion}) }
}

var (
	atHome = map[string]string{"a": "a at home", "b": "b at home", "p": "p at home"}
	away   = map[string]string{"a": "a away", "b": "b away", "p": "p away"}
)

func TestTheFirstRegionCountsAndBothAreAsked(t *testing.T) {
	b, ask := twoRegions(t, nil)
	b.Forget()
	held := b.fetch(t, ask())
	expect(t, "files", contents(held), atHome)
	regions := make(map[string]int)
	for _, call := range b.Calls() {
		regions[call.Region+" "+call.Operation]++
	}
	expect(t, "calls", regions, map[string]int{
		testRegion + " sts:AssumeRoleWithWebIdentity":       1, // one login is of use in both
		testRegion + " secretsmanager:BatchGetSecretValue":  1,
		otherRegion + " secretsmanager:BatchGetSecretValue": 1,
		testRegion + " ssm:GetParameters":                   1,
		otherRegion + " ssm:GetParameters":                  1,
	})
	// The second region once overwrote the versions of the first.
	b.away.PutSecret("a", []byte("changed away"))
	if !b.poll(t, ask(), held).Unchanged {
		t.Error("a change in the second region is a change of the volume")
	}
}

func TestAnOutageOfOneRegionIsBridged(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(*awstest.Region)
	}{
		{"everything is out of order", func(r *awstest.Region) { r.Break() }},
		{"calls are throttled", func(r *awstest.Region) {
			fault := awstest.Fault{Status: http.StatusBadRequest, Code: "ThrottlingException", Message: "Rate exceeded"}
			for _, operation := range []string{"secretsmanager:BatchGetSecretValue", "secretsmanager:GetSecretValue", "ssm:GetParameters"} {
				r.Fail(operation, fault)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, ask := twoRegions(t, nil)
			c.spoil(b.home)
			held := b.fetch(t, ask())
			expect(t, "files while the first is out of order", contents(held), away)
			b.home.Repair()
			c.spoil(b.away)
			expect(t, "files while the second is out of order", contents(b.poll(t, ask(), held)), atHome)
		})
	}
}

func TestARegionThatCannotBeReachedIsBridged(t *testing.T) {
	for _, c := range []struct {
		region string
		want   map[string]string
	}{{testRegion, away}, {otherRegion, atHome}} {
		t.Run(c.region, func(t *testing.T) {
			b, ask := twoRegions(t, nil)
			b.provider = b.startWith(t, &Options{dial: func(ctx context.Context, network, address string) (net.Conn, error) {
				if strings.Contains(address, c.region) {
					return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ECONNREFUSED}
				}
				return b.Dial(ctx, network, address)
			}})
			expect(t, "files", contents(b.fetch(t, ask())), c.want)
		})
	}
}

// A region that answers nothing may not keep the other one's answer waiting
// until the driver gives up.
func TestARegionThatHangsIsBridgedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, ask := twoRegions(t, &awstest.Options{Pipe: true})
		b.home.Hang()
		began := time.Now()
		expect(t, "files", contents(b.fetch(t, ask())), away)
		if took := time.Since(began); took > 2*regionTimeout+time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

// What would be wrong tomorrow too fails in either region, so that it is seen
// before the other one is out of order; and it says what, where and why.
func TestAPermanentErrorOfEitherRegionFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		spoil  func(b *backend, r *awstest.Region)
		reason error
		want   string
	}{
		{"no such secret", func(_ *backend, r *awstest.Region) { r.DeleteSecret("b") }, provider.ErrNotFound,
			`objects[1] (b): %s: BatchGetSecretValue of "b" as service account shop/web with role ` + testRole + `: ResourceNotFoundException: `},
		{"no such parameter", func(_ *backend, r *awstest.Region) { r.DeleteParameter("p") }, provider.ErrNotFound,
			`objects[2] (p): %s: GetParameters of "p" as service account shop/web with role ` + testRole + `: invalid parameters: p: `},
		{"a secret that is about to be deleted", func(_ *backend, r *awstest.Region) { r.ScheduleDeletion("b") }, provider.ErrInvalid,
			`objects[1] (b): %s: BatchGetSecretValue of "b" as service account shop/web with role ` + testRole + `: InvalidRequestException: `},
		{"a key that does not decrypt", func(_ *backend, r *awstest.Region) {
			r.Fail("secretsmanager:BatchGetSecretValue", awstest.Fault{Status: http.StatusBadRequest, Code: "DecryptionFailure", Message: "KMS"})
		}, provider.ErrDenied, `objects[0] (a): %s: BatchGetSecretValue of "a" as service account shop/web with role ` + testRole + `: DecryptionFailure: KMS (request `},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, first := range []bool{true, false} {
				b, ask := twoRegions(t, nil)
				region, name := b.home, testRegion
				if !first {
					region, name = b.away, otherRegion
				}
				c.spoil(b, region)
				_, err := b.provider.Fetch(t.Context(), ask())
				if want := fmt.Sprintf(c.want, name); !errors.Is(err, c.reason) || !strings.HasPrefix(err.Error(), want) {
					t.Errorf("in %s: %v\nwant %v, beginning with %s", name, err, c.reason, want)
				}
			}
		})
	}
}

func TestADeniedObjectSaysWhoMayNotDoWhat(t *testing.T) {
	for _, c := range []struct {
		name, objects, action string
	}{
		{"a secret of a batch", list(secretsManager, "a", "b"), "secretsmanager:GetSecretValue"},
		{"a single secret", list(secretsManager, "b"), "secretsmanager:GetSecretValue"},
		{"a parameter", list(parameterStore, "b"), "ssm:GetParameters"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBackend(t)
			b.home.PutSecret("a", []byte("x"))
			b.home.PutSecret("b", []byte("x"))
			b.home.PutParameter("b", "x")
			b.Server.Deny(testRole, c.action, "b")
			_, err := b.provider.Fetch(t.Context(), b.ask(c.objects))
			if !errors.Is(err, provider.ErrDenied) {
				t.Fatalf("Fetch = %v, want ErrDenied", err)
			}
			for _, part := range []string{`of "b"`, testRole, "AccessDeniedException", c.action, testRegion, "shop/web"} {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%v\ndoes not say %q", err, part)
				}
			}
		})
	}
}

// The causes of both used to be in a log only.
func TestAnOutageOfBothRegionsNamesBothCauses(t *testing.T) {
	b, ask := twoRegions(t, nil)
	b.fetch(t, ask()) // which logs in
	b.home.Break()
	b.away.Fail("secretsmanager:BatchGetSecretValue", awstest.Fault{Status: http.StatusBadRequest, Code: "ThrottlingException", Message: "Rate exceeded"})
	_, err := b.provider.Fetch(t.Context(), ask())
	if !errors.Is(err, provider.ErrUnavailable) {
		t.Fatalf("Fetch = %v, want ErrUnavailable", err)
	}
	for _, part := range []string{"Failed to fetch secret from all regions", testRegion + ": ", otherRegion + ": ", "ThrottlingException: Rate exceeded"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v\ndoes not say %q", err, part)
		}
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("the error has several lines: %v", err)
	}
}

func TestAFailoverObjectHasAnotherName(t *testing.T) {
	b := newBackend(t)
	b.home.PutSecret("db", []byte("home"))
	b.away.PutSecret("replica", []byte("away"))
	objects := "- {objectName: db, objectAlias: file, objectType: secretsmanager, failoverObject: {objectName: replica}}"
	both := map[string]string{"failoverRegion": otherRegion}
	expect(t, "files", contents(b.fetch(t, b.ask(objects, both))), map[string]string{"file": "home"})
	b.home.Break()
	expect(t, "files", contents(b.fetch(t, b.ask(objects, both))), map[string]string{"file": "away"})
}
