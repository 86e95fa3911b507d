package azuretest

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A read is a request to a vault that its path has told the meaning of.
type read struct {
	operation     string // like secrets/get
	kind          string
	name, version string // empty: the newest
	base          string // https://kv1.vault.azure.net
	query         url.Values
}

// apiVersion matches the versions of the protocol that there may be.
var apiVersion = regexp.MustCompile(`^(7\.\d|20\d\d-\d\d-\d\d)(-preview(\.\d)?)?$`)

// objectName matches what any object can be called.
var objectName = regexp.MustCompile(`^[0-9a-zA-Z-]{1,127}$`)

// readOf returns what a request to a vault is for; nil: nothing that there is.
func readOf(u *url.URL, host string) *read {
	var parts []string
	for part := range strings.SplitSeq(strings.TrimPrefix(u.EscapedPath(), "/"), "/") {
		if text, err := url.PathUnescape(part); err == nil {
			part = text
		}
		parts = append(parts, part)
	}
	r := &read{kind: parts[0], base: "https://" + host, query: u.Query()}
	verb := "get"
	switch {
	case !slices.Contains(kinds(), r.kind) || len(parts) > 3:
		return nil
	case len(parts) == 1, len(parts) == 2 && parts[1] == "":
		verb = "list"
	case len(parts) == 3 && parts[2] == "versions":
		verb, r.name = "versions", parts[1]
	case len(parts) == 3:
		r.name, r.version = parts[1], parts[2]
	default:
		r.name = parts[1]
	}
	r.operation = r.kind + "/" + verb
	return r
}

// serveVault answers a request to a vault.
func (s *Server) serveVault(w http.ResponseWriter, r *http.Request, host string) {
	name, cloud, _ := s.vaultOf(host)
	s.mu.Lock()
	v := s.vaults[name]
	s.mu.Unlock()
	asked := readOf(r.URL, host)
	if v == nil || asked == nil {
		http.NotFound(w, r)
		return
	}
	token, hasToken := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	operation := asked.operation
	if !hasToken {
		operation = challenge
	}
	w.Header().Set("X-Ms-Keyvault-Service-Version", "1.9.2700.1")
	w.Header().Set("X-Ms-Keyvault-Region", "westeurope")
	req := &request{Request: r, host: host, record: s.record(operation, host, r.URL.Path), faults: v.Faults, refuse: vaultRefusal}
	s.answer(w, req, func() (any, error) {
		if hasToken {
			return v.admit(req, asked, token, cloud)
		}
		if err := v.fail(challenge); err != nil {
			return nil, err
		}
		return nil, v.unauthorized(req, cloud, "AKV10000: Request is missing a Bearer or PoP token.")
	})
}

// unauthorized returns an error, and says in the header where there are tokens.
func (v *Vault) unauthorized(r *request, cloud Cloud, message string) error {
	r.header.Set("Www-Authenticate", `Bearer authorization="https://`+cloud.Authority+"/"+v.server.Tenant+`", resource="`+cloud.resource()+`"`)
	return refuse(http.StatusUnauthorized, "Unauthorized", "%s", message)
}

// admit does what is asked for if the token is good.
func (v *Vault) admit(r *request, asked *read, token string, cloud Cloud) (any, error) {
	claims := &accessClaims{}
	s := v.server
	switch err := verify(token, claims, s.tokens.public(), "ES256"); {
	case err != nil:
		return nil, v.unauthorized(r, cloud, "AKV10046: Unable to validate the token: its issuer, key or signature is unknown.")
	case !slices.Equal(claims.Audience, []string{cloud.resource()}):
		return nil, v.unauthorized(r, cloud, "AKV10022: Invalid audience. Expected "+cloud.resource()+", found: "+strings.Join(claims.Audience, ", ")+".")
	case claims.Issuer != s.tokenIssuer():
		return nil, v.unauthorized(r, cloud, "AKV10032: Invalid issuer. Expected one of "+s.tokenIssuer()+", found "+claims.Issuer+".")
	case !within(claims.RegisteredClaims, time.Now()):
		return nil, v.unauthorized(r, cloud, "AKV10034: The token is expired, or not valid yet.")
	}
	s.change(func() { r.record.Client = claims.App })
	if err := v.fail(asked.operation); err != nil {
		return nil, err
	}
	version := asked.query.Get("api-version")
	switch {
	case r.Method != http.MethodGet:
		return nil, refuse(http.StatusMethodNotAllowed, "MethodNotAllowed", "azuretest only reads.")
	case version == "":
		return nil, refuse(http.StatusBadRequest, "BadParameter", "api-version must be specified")
	case !apiVersion.MatchString(version):
		return nil, refuse(http.StatusBadRequest, "BadParameter", "The specified version (%s) is not recognized. Consider using the latest supported version (2025-07-01).", version)
	case asked.name != "" && !objectName.MatchString(asked.name):
		return nil, refuse(http.StatusBadRequest, "BadParameter", "The request URI contains an invalid name: %s", asked.name)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if strings.HasSuffix(asked.operation, "/get") {
		return v.get(claims.App, asked)
	}
	return v.list(claims.App, asked)
}

// withInner returns a refusal with the code of an inner error.
func withInner(err error, code string) error {
	var r *refusal
	if errors.As(err, &r) {
		r.inner = code
	}
	return err
}

func vaultRefusal(r *refusal) any {
	answer := object{"code": r.code, "message": r.message}
	if r.inner != "" {
		answer["innererror"] = object{"code": r.inner}
	}
	return object{"error": answer}
}
