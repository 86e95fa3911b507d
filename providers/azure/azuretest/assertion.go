package azuretest

import (
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // x5t is SHA-1
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// checkAssertion returns an error unless an assertion is the app's: signed by
// its certificate if it says to be of the app itself, else by an issuer that
// is trusted.
func (s *Server) checkAssertion(r *request, assertion, client string, app App, proxyAudience string) error {
	claims := &claimSet{}
	unverified, _, err := jwt.NewParser().ParseUnverified(assertion, claims)
	switch {
	case err != nil:
		return aadsts(http.StatusUnauthorized, "invalid_client", 50027, "JWT token is invalid or malformed.")
	case proxyAudience != "":
		app.Audience = proxyAudience
	case strings.EqualFold(claims.Issuer, client):
		return s.checkSigned(r, unverified, claims, client, app)
	}
	s.mu.Lock()
	keys, trusted := s.trusted[claims.Issuer]
	s.mu.Unlock()
	const mismatch = "No matching federated identity record found for presented assertion %s '%s'. " +
		"Check your federated identity credential Subject, Audience and Issuer against the presented assertion."
	switch {
	case !trusted || len(app.Subjects) == 0:
		return aadsts(http.StatusUnauthorized, "invalid_client", 700211, mismatch, "issuer", claims.Issuer)
	case !slices.Equal(claims.Audience, []string{app.audience()}):
		return aadsts(http.StatusUnauthorized, "invalid_client", 700212, mismatch, "audience", strings.Join(claims.Audience, ", "))
	case !slices.Contains(app.Subjects, claims.Subject):
		return aadsts(http.StatusUnauthorized, "invalid_client", 700213, mismatch, "subject", claims.Subject)
	case verify(assertion, &claimSet{}, keys, "RS256", "ES256") != nil:
		return aadsts(http.StatusUnauthorized, "invalid_client", 50013, "Assertion failed signature validation. "+
			"[Reason - The key was not found or does not fit.]")
	}
	return inTime(claims)
}

// checkSigned is checkAssertion for what a certificate has signed.
func (s *Server) checkSigned(r *request, unverified *jwt.Token, claims *claimSet, client string, app App) error {
	endpoint := "https://" + r.host + r.URL.Path
	thumbprint := ""
	for _, name := range []string{"x5t", "x5t#S256"} {
		if text, ok := unverified.Header[name].(string); ok {
			thumbprint = text
		}
	}
	switch {
	case !strings.EqualFold(claims.Subject, client):
		return aadsts(http.StatusUnauthorized, "invalid_client", 700021, "Client assertion application identifier doesn't match 'client_id' parameter.")
	case !slices.Equal(claims.Audience, []string{endpoint}):
		return aadsts(http.StatusUnauthorized, "invalid_client", 700023, "Client assertion audience claim does not match Realm issuer.")
	case app.Certificate == nil, !slices.Contains(thumbprints(app.Certificate.Raw), strings.TrimRight(thumbprint, "=")):
		return aadsts(http.StatusUnauthorized, "invalid_client", 700027, "The certificate with identifier used to sign the client assertion is not registered on application. "+
			"[Reason - The key was not found.]")
	}
	key, isRSA := app.Certificate.PublicKey.(*rsa.PublicKey)
	parser := jwt.NewParser(jwt.WithoutClaimsValidation(), jwt.WithValidMethods([]string{"RS256", "PS256"}))
	if _, err := parser.Parse(unverified.Raw, func(*jwt.Token) (any, error) { return key, nil }); !isRSA || err != nil {
		return aadsts(http.StatusUnauthorized, "invalid_client", 700027, "Client assertion failed signature validation.")
	}
	return inTime(claims)
}

// thumbprints returns those of a certificate, in both alphabets of base64.
func thumbprints(der []byte) (all []string) {
	old, sum := sha1.Sum(der), sha256.Sum256(der) //nolint:gosec // x5t is SHA-1
	for _, encoding := range []*base64.Encoding{base64.RawURLEncoding, base64.RawStdEncoding} {
		all = append(all, encoding.EncodeToString(old[:]), encoding.EncodeToString(sum[:]))
	}
	return all
}

func inTime(claims *claimSet) error {
	if within(claims.RegisteredClaims, time.Now()) {
		return nil
	}
	const layout = "2006-01-02T15:04:05.0000000Z"
	expired := "never"
	if claims.ExpiresAt != nil {
		expired = claims.ExpiresAt.UTC().Format(layout)
	}
	return aadsts(http.StatusUnauthorized, "invalid_client", 700024, "Client assertion is not within its valid time range. "+
		"Current time: %s, expiry time of assertion %s.", time.Now().UTC().Format(layout), expired)
}
