package awstest_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/golang-jwt/jwt/v5"

	"github.com/keymount/keymount/providers/aws/awstest"
)

// exchange assumes a role with a token, and with what is changed.
func (c *client) exchange(t testing.TB, token string, change ...func(*sts.AssumeRoleWithWebIdentityInput)) (*sts.AssumeRoleWithWebIdentityOutput, error) {
	t.Helper()
	in := &sts.AssumeRoleWithWebIdentityInput{RoleArn: aws.String(shop), RoleSessionName: aws.String("shop-web"), WebIdentityToken: &token}
	for _, f := range change {
		f(in)
	}
	return c.sts.AssumeRoleWithWebIdentity(t.Context(), in)
}

func (c *client) identity(t testing.TB) string {
	t.Helper()
	return *must[*sts.GetCallerIdentityOutput](t)(c.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})).Arn
}

func TestAServiceAccountGetsARole(t *testing.T) {
	s := awstest.New(t, nil)
	s.Role(shop, awstest.Role{Subjects: []string{subject}})
	c := newClient(t, s)
	out := must[*sts.AssumeRoleWithWebIdentityOutput](t)(c.exchange(t, s.ServiceAccountToken("shop", "web", "sts.amazonaws.com", time.Hour)))
	const session = "arn:aws:sts::123456789012:assumed-role/shop/shop-web"
	expect(t, "session", *out.AssumedRoleUser.Arn, session)
	expect(t, "subject", *out.SubjectFromWebIdentityToken, subject)
	expect(t, "audience", *out.Audience, "sts.amazonaws.com")
	expect(t, "provider", *out.Provider, "arn:aws:iam::123456789012:oidc-provider/"+strings.TrimPrefix(s.Issuer(), "https://"))
	if life := time.Until(*out.Credentials.Expiration); life < 59*time.Minute || life > time.Hour {
		t.Errorf("credentials for %v, want an hour", life)
	}
	app := c.as(*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
	expect(t, "identity", app.identity(t), session)
	expect(t, "identity", c.identity(t), user)
	caller := must[*sts.GetCallerIdentityOutput](t)(app.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{}))
	expect(t, "user ID", *caller.UserId, *out.AssumedRoleUser.AssumedRoleId)
	expect(t, "account", *caller.Account, "123456789012")
}

func TestSTSRefusesWebIdentities(t *testing.T) {
	s, stranger := awstest.New(t, nil), awstest.New(t, &awstest.Options{Region: "eu-north-1"})
	s.Role(shop, awstest.Role{Subjects: []string{subject}})
	c := newClient(t, s)
	good := s.ServiceAccountToken("shop", "web", "sts.amazonaws.com", time.Hour)
	twin := awstest.New(t, nil)
	parts := strings.Split(good, ".")
	claims := strings.Split(s.ServiceAccountToken("shop", "web", "sts.amazonaws.com", 2*time.Hour), ".")[1]
	with := func(token string, change ...func(*sts.AssumeRoleWithWebIdentityInput)) func() error {
		return func() error { return second(c.exchange(t, token, change...)) }
	}
	role := func(arn string) func(*sts.AssumeRoleWithWebIdentityInput) {
		return func(in *sts.AssumeRoleWithWebIdentityInput) { in.RoleArn = &arn }
	}
	expectRefusals(t, http.StatusForbidden, []refusal{
		{"another service account", with(s.ServiceAccountToken("shop", "other", "sts.amazonaws.com", time.Hour)), "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
		{"a role that is none", with(good, role("arn:aws:iam::123456789012:role/none")), "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"},
	})
	expectRefusals(t, http.StatusBadRequest, []refusal{
		{"another issuer", with(stranger.ServiceAccountToken("shop", "web", "sts.amazonaws.com", time.Hour)), "InvalidIdentityToken", "No OpenIDConnect provider found in your account for https://oidc.eks.eu-north-1."},
		{"another key of the issuer", with(twin.ServiceAccountToken("shop", "web", "sts.amazonaws.com", time.Hour)), "InvalidIdentityToken", "Couldn't retrieve verification key"},
		{"claims that are not signed", with(parts[0] + "." + claims + "." + parts[2]), "InvalidIdentityToken", "signature"},
		{"another audience", with(s.ServiceAccountToken("shop", "web", "vault", time.Hour)), "InvalidIdentityToken", "Incorrect token audience"},
		{"an expired token", with(s.ServiceAccountToken("shop", "web", "sts.amazonaws.com", -time.Second)), "ExpiredTokenException", "must be before the expiration date/time"},
		{"no token", with("none"), "InvalidIdentityToken", "not a valid JWT"},
		{"no ARN", with(good, role("role/none-of-all-these")), "ValidationError", "Request ARN is invalid"},
		{"a session name with a slash", with(good, func(in *sts.AssumeRoleWithWebIdentityInput) { in.RoleSessionName = aws.String("shop/web") }), "ValidationError",
			`1 validation error detected: Value 'shop/web' at 'roleSessionName' failed to satisfy constraint: Member must satisfy regular expression pattern: [\w+=,.@-]*`},
		{"a minute", with(good, func(in *sts.AssumeRoleWithWebIdentityInput) { in.DurationSeconds = aws.Int32(60) }), "ValidationError", "Member must have value greater than or equal to 900"},
		{"two hours", with(good, func(in *sts.AssumeRoleWithWebIdentityInput) { in.DurationSeconds = aws.Int32(7200) }), "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role."},
		{"a policy", with(good, func(in *sts.AssumeRoleWithWebIdentityInput) { in.Policy = aws.String("{}") }), "MalformedInput", `unknown field "Policy"`},
		{"an operation that is none here", func() error { return second(c.sts.GetSessionToken(t.Context(), &sts.GetSessionTokenInput{})) }, "InvalidAction", "Could not find operation GetSessionToken for version 2011-06-15"},
	})
}

func TestARoleIsAssumedAfterAnother(t *testing.T) {
	const vault = "arn:aws:iam::210987654321:role/vault"
	s := awstest.New(t, nil)
	s.Role(shop, awstest.Role{})
	s.Role(vault, awstest.Role{Principals: []string{shop}, ExternalID: "shop-4711", Lifetime: 12 * time.Hour})
	admin := newClient(t, s)
	app := admin.assume(t, s, shop)
	assume := func(c *client, in *sts.AssumeRoleInput) func() error {
		if in.RoleArn == nil {
			in.RoleArn = aws.String(vault)
		}
		in.RoleSessionName = aws.String("session")
		return func() error { return second(c.sts.AssumeRole(t.Context(), in)) }
	}
	id := aws.String("shop-4711")
	if err := assume(app, &sts.AssumeRoleInput{ExternalId: id})(); err != nil {
		t.Fatal(err)
	}
	denied := "is not authorized to perform: sts:AssumeRole on resource: " + vault
	expectRefusals(t, http.StatusForbidden, []refusal{
		{"no external ID", assume(app, &sts.AssumeRoleInput{}), "AccessDenied", denied},
		{"another external ID", assume(app, &sts.AssumeRoleInput{ExternalId: aws.String("other")}), "AccessDenied", "User: arn:aws:sts::123456789012:assumed-role/shop/shop-web " + denied},
		{"another principal", assume(admin, &sts.AssumeRoleInput{ExternalId: id}), "AccessDenied", "User: " + user},
		{"a role that is none", assume(app, &sts.AssumeRoleInput{RoleArn: aws.String(vault + "2"), ExternalId: id}), "AccessDenied", denied},
	})
	expectRefusals(t, http.StatusBadRequest, []refusal{
		{"two hours in a chain", assume(app, &sts.AssumeRoleInput{ExternalId: id, DurationSeconds: aws.Int32(7200)}), "ValidationError", "exceeds the 1 hour session limit for roles assumed by role chaining."},
	})
	s.Role(vault, awstest.Role{Principals: []string{user}, Lifetime: 12 * time.Hour})
	if err := assume(admin, &sts.AssumeRoleInput{DurationSeconds: aws.Int32(43200)})(); err != nil {
		t.Error(err)
	}
	s.Deny(user, "sts:AssumeRole", "")
	refused(t, assume(admin, &sts.AssumeRoleInput{})(), http.StatusForbidden, "AccessDenied", "because no identity-based policy allows the sts:AssumeRole action")
}

func TestCredentialsAndTokensEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := awstest.New(t, &awstest.Options{Pipe: true})
		s.Role(shop, awstest.Role{Lifetime: 20 * time.Minute})
		s.Region(here).PutSecret("a", []byte("one"))
		s.Region(here).PutParameter("a", "one")
		c := newClient(t, s)
		token := s.ServiceAccountToken("shop", "web", "sts.amazonaws.com", 10*time.Minute)
		app := c.assume(t, s, shop)
		time.Sleep(10 * time.Minute)
		expect(t, "the value", app.value(t, "a"), "one")
		refused(t, second(c.exchange(t, token)), http.StatusBadRequest, "ExpiredTokenException", "Token expired: current date/time 946685400 must be before the expiration date/time 946685400")
		time.Sleep(10 * time.Minute)
		const over = "The security token included in the request is expired"
		refused(t, second(app.secrets.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: aws.String("a")})), http.StatusBadRequest, "ExpiredTokenException", over)
		refused(t, second(app.parameters.GetParameter(t.Context(), &ssm.GetParameterInput{Name: aws.String("a")})), http.StatusBadRequest, "ExpiredTokenException", over)
		refused(t, second(app.sts.GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})), http.StatusForbidden, "ExpiredToken", over)
		expect(t, "the value, to others", c.value(t, "a"), "one")
	})
}

const otherIssuer = "https://kubernetes.default.svc.cluster.local"

// clusterToken returns a token of another cluster, and its JSON Web Key Set.
func clusterToken(t testing.TB, method jwt.SigningMethod, key any, public map[string]string) (token string, jwks []byte) {
	t.Helper()
	unsigned := jwt.NewWithClaims(method, jwt.MapClaims{
		"iss": otherIssuer, "sub": subject, "aud": []string{"own.audience"}, "exp": time.Now().Add(time.Hour).Unix(),
	})
	unsigned.Header["kid"], public["kid"] = "k1", "k1"
	return must[string](t)(unsigned.SignedString(key)), must[[]byte](t)(json.Marshal(map[string]any{"keys": []any{public}}))
}

func TestAnotherClusterIsTrusted(t *testing.T) {
	number := base64.RawURLEncoding.EncodeToString
	ofRSA := must[*rsa.PrivateKey](t)(rsa.GenerateKey(rand.Reader, 2048))
	ofEC := must[*ecdsa.PrivateKey](t)(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	point := must[[]byte](t)(ofEC.PublicKey.Bytes())[1:]
	for _, c := range []struct {
		method jwt.SigningMethod
		key    any
		public map[string]string
	}{
		{jwt.SigningMethodRS256, ofRSA, map[string]string{"kty": "RSA", "n": number(ofRSA.N.Bytes()), "e": number(big.NewInt(int64(ofRSA.E)).Bytes())}},
		{jwt.SigningMethodES384, ofEC, map[string]string{"kty": "EC", "crv": "P-384", "x": number(point[:48]), "y": number(point[48:])}},
	} {
		t.Run(c.method.Alg(), func(t *testing.T) {
			s := awstest.New(t, nil)
			s.Role(shop, awstest.Role{Subjects: []string{subject}, Audience: "own.audience"})
			client := newClient(t, s)
			token, jwks := clusterToken(t, c.method, c.key, c.public)
			refused(t, second(client.exchange(t, token)), http.StatusBadRequest, "InvalidIdentityToken", "No OpenIDConnect provider found in your account for "+otherIssuer)
			s.Trust(otherIssuer, jwks)
			must[*sts.AssumeRoleWithWebIdentityOutput](t)(client.exchange(t, token))
			own := s.ServiceAccountToken("shop", "web", "sts.amazonaws.com", time.Hour)
			refused(t, second(client.exchange(t, own)), http.StatusBadRequest, "InvalidIdentityToken", "Incorrect token audience")
		})
	}
}

func TestARoleMayDoWhatIsNotDenied(t *testing.T) {
	s := awstest.New(t, nil)
	r := s.Region(here)
	s.Role(shop, awstest.Role{})
	r.PutSecret("a", []byte("one"))
	r.PutSecret("b", []byte("two"))
	r.PutParameter("/app/a", "one")
	c := newClient(t, s).assume(t, s, shop)
	get := func(id string) func() error {
		return func() error {
			return second(c.secrets.GetSecretValue(t.Context(), &secretsmanager.GetSecretValueInput{SecretId: &id}))
		}
	}
	batch := func() error {
		return second(c.secrets.BatchGetSecretValue(t.Context(), &secretsmanager.BatchGetSecretValueInput{SecretIdList: []string{"a"}}))
	}
	parameters := func() error {
		return second(c.parameters.GetParameters(t.Context(), &ssm.GetParametersInput{Names: []string{"other", "/app/a:1"}}))
	}
	s.Deny(shop, "secretsmanager:GetSecretValue", "a")
	s.Deny(shop, "secretsmanager:GetSecretValue", "missing")
	s.Deny(shop, "secretsmanager:BatchGetSecretValue", "")
	s.Deny(shop, "ssm:GetParameters", "/app/a")
	const who = "User: arn:aws:sts::123456789012:assumed-role/shop/shop-web is not authorized to perform: "
	expectRefusals(t, http.StatusBadRequest, []refusal{
		{"by name", get("a"), "AccessDeniedException", who + "secretsmanager:GetSecretValue on resource: a because no identity-based policy allows the secretsmanager:GetSecretValue action"},
		{"by ARN", get(r.SecretARN("a")), "AccessDeniedException", who + "secretsmanager:GetSecretValue on resource: " + r.SecretARN("a")},
		{"what is not there", get("missing"), "AccessDeniedException", "on resource: missing"},
		{"in a batch", batch, "AccessDeniedException", who + "secretsmanager:BatchGetSecretValue because no identity-based policy allows the secretsmanager:BatchGetSecretValue action"},
		{"a parameter", parameters, "AccessDeniedException", who + "ssm:GetParameters on resource: arn:aws:ssm:eu-west-1:123456789012:parameter/app/a because"},
	})
	if err := get("b")(); err != nil {
		t.Error(err)
	}
	s.Allow(shop, "secretsmanager:GetSecretValue", "a")
	s.Allow(shop, "secretsmanager:BatchGetSecretValue", "")
	s.Allow(shop, "ssm:GetParameters", "/app/a")
	for _, call := range []func() error{get("a"), batch, parameters} {
		if err := call(); err != nil {
			t.Error(err)
		}
	}
}
