package awstest

import (
	"encoding/xml"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"
)

func securityTokenService() *service {
	return &service{
		name: "sts",
		operations: map[string]operation{
			"AssumeRole":                op(assumeRole),
			"AssumeRoleWithWebIdentity": op(assumeRoleWithWebIdentity),
			"GetCallerIdentity":         op(getCallerIdentity),
		},
		write:  writeXML,
		refuse: writeXMLRefusal,
		outage: &refusal{http.StatusServiceUnavailable, "ServiceUnavailable", "Service is unable to handle request."},
		common: inQuery,
	}
}

// inQuery returns what services with the query protocol call what is common to
// all.
func inQuery(r *refusal) *refusal {
	names := map[string]refusal{
		"AccessDeniedException":               {http.StatusForbidden, "AccessDenied", r.message},
		"ExpiredTokenException":               {http.StatusForbidden, "ExpiredToken", r.message},
		"IncompleteSignatureException":        {http.StatusBadRequest, "IncompleteSignature", r.message},
		"InvalidSignatureException":           {http.StatusForbidden, "SignatureDoesNotMatch", r.message},
		"MissingAuthenticationTokenException": {http.StatusForbidden, "MissingAuthenticationToken", "Request is missing Authentication Token"},
		"SerializationException":              {http.StatusBadRequest, "MalformedInput", r.message},
		"UnknownOperationException":           {http.StatusBadRequest, "InvalidAction", "Could not find operation " + r.message + " for version 2011-06-15"},
		"UnrecognizedClientException":         {http.StatusForbidden, "InvalidClientTokenId", r.message},
		"ValidationException":                 {http.StatusBadRequest, "ValidationError", r.message},
	}
	if named, ok := names[r.code]; ok {
		return &named
	}
	return r
}

// A roleRequest is what both ways to assume a role have in common.
type roleRequest struct {
	RoleARN         string `json:"RoleArn" need:"yes" len:"20-2048"`
	RoleSessionName string `json:"RoleSessionName" need:"yes" len:"2-64" like:"[\\w+=,.@-]*"`
	DurationSeconds int    `json:"DurationSeconds,string" len:"900-43200"`
}

type grantedCredentials struct {
	ID      string `xml:"AccessKeyId"`
	Secret  string `xml:"SecretAccessKey"`
	Token   string `xml:"SessionToken"`
	Expires string `xml:"Expiration"`
}

type assumedRole struct {
	ID  string `xml:"AssumedRoleId"`
	ARN string `xml:"Arn"`
}

// grant returns credentials of a role, if they may live as long as asked for.
// A caller that has a role itself may get no more than an hour.
func (c *call) grant(in roleRequest, role Role) (*credential, error) {
	life, chained := time.Duration(in.DurationSeconds)*time.Second, c.by != nil && c.by.token != ""
	switch {
	case life == 0 && chained:
		life = min(role.lifetime(), time.Hour)
	case life == 0:
		life = role.lifetime()
	case chained && life > time.Hour:
		return nil, refuse("ValidationError", "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.")
	case life > role.lifetime():
		return nil, refuse("ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	return c.server.session(in.RoleARN, in.RoleSessionName, c.now.Add(life)), nil
}

func (c *credential) granted() (grantedCredentials, assumedRole) {
	return grantedCredentials{c.id, c.secret, c.token, c.expires.Format(time.RFC3339)}, assumedRole{c.user, c.arn}
}

type assumeRoleInput struct {
	roleRequest
	ExternalID string `json:"ExternalId" len:"2-1224" like:"[\\w+=,.@:\\/-]*"`
}

func assumeRole(c *call, in *assumeRoleInput) (any, error) {
	const action = "sts:AssumeRole"
	role, known := c.server.roles[in.RoleARN]
	switch {
	case !strings.HasPrefix(in.RoleARN, "arn:"):
		return nil, refuse("ValidationError", "%s is invalid", in.RoleARN)
	case !known || !slices.Contains(role.Principals, c.by.owner) || role.ExternalID != "" && in.ExternalID != role.ExternalID:
		return nil, &refusal{http.StatusForbidden, "AccessDenied", "User: " + c.by.arn + " is not authorized to perform: " + action + " on resource: " + in.RoleARN}
	}
	if err := c.allow(action, in.RoleARN, in.RoleARN); err != nil {
		return nil, err
	}
	granted, err := c.grant(in.roleRequest, role)
	if err != nil {
		return nil, err
	}
	creds, assumed := granted.granted()
	return struct {
		XMLName     xml.Name    `xml:"AssumeRoleResult"`
		AssumedRole assumedRole `xml:"AssumedRoleUser"`
		Credentials grantedCredentials
	}{AssumedRole: assumed, Credentials: creds}, nil
}

type webIdentityInput struct {
	roleRequest
	Token string `json:"WebIdentityToken" need:"yes" len:"4-20000"`
}

func assumeRoleWithWebIdentity(c *call, in *webIdentityInput) (any, error) {
	denied := &refusal{http.StatusForbidden, "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"}
	role, known := c.server.roles[in.RoleARN]
	switch {
	case !strings.HasPrefix(in.RoleARN, "arn:"):
		return nil, refuse("ValidationError", "Request ARN is invalid")
	case !known:
		return nil, denied
	}
	claims, err := c.server.verifyToken(in.Token, role.audience(), c.now)
	switch {
	case err != nil:
		return nil, webIdentityRefusal(err, claims, c.now)
	case role.Subjects != nil && !slices.Contains(role.Subjects, claims.Subject):
		return nil, denied
	}
	granted, err := c.grant(in.roleRequest, role)
	if err != nil {
		return nil, err
	}
	creds, assumed := granted.granted()
	return struct {
		XMLName     xml.Name `xml:"AssumeRoleWithWebIdentityResult"`
		Subject     string   `xml:"SubjectFromWebIdentityToken"`
		Audience    string
		AssumedRole assumedRole `xml:"AssumedRoleUser"`
		Credentials grantedCredentials
		Provider    string
	}{
		Subject: claims.Subject, Audience: role.audience(), AssumedRole: assumed, Credentials: creds,
		Provider: "arn:" + partitionOf(c.name) + ":iam::" + account(in.RoleARN) + ":oidc-provider/" + strings.TrimPrefix(claims.Issuer, "https://"),
	}, nil
}

// webIdentityRefusal returns how STS says what is wrong with a token.
func webIdentityRefusal(err error, claims *claimSet, now time.Time) error {
	const code = "InvalidIdentityToken"
	switch {
	case errors.Is(err, errExpired) && claims.ExpiresAt != nil:
		return refuse("ExpiredTokenException", "Token expired: current date/time %d must be before the expiration date/time %d", now.Unix(), claims.ExpiresAt.Unix())
	case errors.Is(err, errIssuer):
		return refuse(code, "No OpenIDConnect provider found in your account for %s", claims.Issuer)
	case errors.Is(err, errAudience):
		return refuse(code, "Incorrect token audience")
	case errors.Is(err, errKey):
		return refuse(code, "Couldn't retrieve verification key from your identity provider,  please reference AssumeRoleWithWebIdentity documentation for requirements")
	case errors.Is(err, errSignature):
		return refuse(code, "The web identity token that was passed is invalid: its signature does not verify")
	default:
		return refuse(code, "The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")
	}
}

func getCallerIdentity(c *call, _ *struct{}) (any, error) {
	return struct {
		XMLName xml.Name `xml:"GetCallerIdentityResult"`
		ARN     string   `xml:"Arn"`
		User    string   `xml:"UserId"`
		Account string
	}{ARN: c.by.arn, User: c.by.user, Account: account(c.by.arn)}, nil
}
