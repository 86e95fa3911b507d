package azuretest

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// assertionType is the only one that there is.
const assertionType = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

// login grants an app of the tenant a token for the vaults of a cloud. At the
// token proxy, which has an audience of its own, only federated tokens count.
func (s *Server) login(r *request, cloud Cloud, tenant, proxyAudience string) (any, error) {
	if err := s.checkTenant(tenant, "invalid_request"); err != nil {
		return nil, err
	}
	if err := r.ParseForm(); err != nil {
		return nil, aadsts(http.StatusBadRequest, "invalid_request", 900144, "The request body cannot be read.")
	}
	form := r.PostForm
	for _, name := range []string{"grant_type", "client_id", "scope"} {
		if form.Get(name) == "" {
			return nil, aadsts(http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the following parameter: '%s'.", name)
		}
	}
	if form.Get("grant_type") != "client_credentials" {
		return nil, aadsts(http.StatusBadRequest, "unsupported_grant_type", 70003, "The app requested an unsupported grant type '%s'.", form.Get("grant_type"))
	}
	client := strings.ToLower(form.Get("client_id"))
	s.mu.Lock()
	app, known := s.apps[client]
	s.mu.Unlock()
	if !known {
		return nil, aadsts(http.StatusBadRequest, "unauthorized_client", 700016,
			"Application with identifier '%s' was not found in the directory '%s'.", form.Get("client_id"), s.Tenant)
	}
	if err := s.prove(r, form, client, app, proxyAudience); err != nil {
		return nil, err
	}
	s.change(func() { r.record.Client = client })
	resource, err := resourceOf(form.Get("scope"), cloud)
	if err != nil {
		return nil, err
	}
	life := cmp.Or(s.options.TokenLife, time.Hour)
	seconds := int(life/time.Second) - 1
	return object{
		"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds,
		"access_token": s.accessToken(client, resource, time.Now().Add(life)),
	}, nil
}

// prove returns an error unless the client is the app.
func (s *Server) prove(r *request, form url.Values, client string, app App, proxyAudience string) error {
	secret, assertion := form.Get("client_secret"), form.Get("client_assertion")
	switch {
	case assertion == "" && secret == "", proxyAudience != "" && assertion == "":
		return aadsts(http.StatusUnauthorized, "invalid_client", 7000218, "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.")
	case assertion == "" && (app.Secret == "" || secret != app.Secret):
		return aadsts(http.StatusUnauthorized, "invalid_client", 7000215,
			"Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID, for a secret added to app '%s'.", client)
	case assertion == "":
		return nil
	case form.Get("client_assertion_type") != assertionType:
		return aadsts(http.StatusBadRequest, "invalid_request", 900144, "The request body must contain the following parameter: 'client_assertion_type'.")
	default:
		return s.checkAssertion(r, assertion, client, app, proxyAudience)
	}
}

// resourceOf returns what a scope is for: the vaults of the cloud.
func resourceOf(scope string, cloud Cloud) (string, error) {
	known := []string{"openid", "offline_access", "profile"} // which say nothing for an app
	words := slices.DeleteFunc(strings.Fields(scope), func(s string) bool { return slices.Contains(known, s) })
	resource, ok := strings.CutSuffix(strings.Join(words, " "), "/.default")
	switch {
	case !ok || len(words) != 1:
		return "", aadsts(http.StatusBadRequest, "invalid_scope", 1002012, "The provided value for scope %s is not valid. "+
			"Client credential flows must have a scope value with /.default suffixed to the resource identifier (application ID URI).", scope)
	case resource != cloud.resource():
		return "", noResource(resource)
	}
	return resource, nil
}

func noResource(resource string) error {
	return aadsts(http.StatusBadRequest, "invalid_resource", 500011, "The resource principal named %s was not found in the tenant. "+
		"This can happen if the application has not been installed by the administrator of the tenant or consented to by any user in the tenant.", resource)
}

// An accessClaims is what an access token says.
type accessClaims struct {
	jwt.RegisteredClaims
	App    string `json:"appid"`
	Tenant string `json:"tid"`
	Object string `json:"oid"`
}

// tokenIssuer returns the issuer of access tokens.
func (s *Server) tokenIssuer() string { return "https://sts.windows.net/" + s.Tenant + "/" }

func (s *Server) accessToken(client, resource string, expires time.Time) string {
	now := jwt.NewNumericDate(time.Now())
	return s.tokens.sign(s.t, accessClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: s.tokenIssuer(), Audience: jwt.ClaimStrings{resource}, Subject: client, ID: uuid(),
			IssuedAt: now, NotBefore: now, ExpiresAt: jwt.NewNumericDate(expires),
		},
		App: client, Tenant: s.Tenant, Object: client,
	})
}
