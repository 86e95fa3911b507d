package awstest

import (
	"cmp"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	algorithm  = "AWS4-HMAC-SHA256"
	timeFormat = "20060102T150405Z"
	// maxSkew is how far the client's clock may be from the server's.
	maxSkew = 5 * time.Minute
)

// A signature is what a request says of its own: Signature Version 4 in the
// header Authorization.
type signature struct {
	given                              bool
	key, date, region, service, suffix string // of the credential scope
	headers                            []string
	value                              string
}

func signatureOf(r *http.Request) signature {
	text, ok := strings.CutPrefix(r.Header.Get("Authorization"), algorithm+" ")
	if !ok {
		return signature{}
	}
	parts := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		parts[name] = value
	}
	s := signature{given: true, headers: strings.Split(parts["SignedHeaders"], ";"), value: parts["Signature"]}
	if scope := strings.Split(parts["Credential"], "/"); len(scope) == 5 {
		s.key, s.date, s.region, s.service, s.suffix = scope[0], scope[1], scope[2], scope[3], scope[4]
	}
	return s
}

// authenticate returns whose signature a request has, with an error unless it
// is good.
func (s *Server) authenticate(r *request, signed signature, region string, now time.Time) (*credential, error) {
	token := r.Header.Get("X-Amz-Security-Token")
	switch {
	case !signed.given:
		return nil, refuse("MissingAuthenticationTokenException", "Missing Authentication Token")
	case signed.key == "" || signed.suffix != "aws4_request" || signed.value == "" || !slices.Contains(signed.headers, "host"):
		return nil, refuse("IncompleteSignatureException", "The request signature does not conform to AWS standards.")
	}
	s.mu.Lock()
	by := s.keys[signed.key]
	s.mu.Unlock()
	if by == nil || by.token != token {
		return nil, refuse("UnrecognizedClientException", "The security token included in the request is invalid.")
	}
	if !by.expires.IsZero() && !now.Before(by.expires) {
		return by, refuse("ExpiredTokenException", "The security token included in the request is expired")
	}
	wrong := ""
	if signed.region != region {
		wrong = "Credential should be scoped to a valid region. "
	}
	if signed.service != r.to.name {
		wrong += "Credential should be scoped to correct service: '" + r.to.name + "'. "
	}
	if wrong != "" {
		return by, refuse("InvalidSignatureException", "%s", wrong)
	}
	return by, verify(r, signed, by.secret, now)
}

// verify checks the time of a signature, and the signature itself.
func verify(r *request, signed signature, secret string, now time.Time) error {
	at, err := time.Parse(timeFormat, r.Header.Get("X-Amz-Date"))
	switch past, future := now.Add(-maxSkew), now.Add(maxSkew); {
	case err != nil || signed.date != at.Format("20060102"):
		return refuse("IncompleteSignatureException", "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP")
	case at.Before(past):
		return refuse("InvalidSignatureException", "Signature expired: %s is now earlier than %s (%s - 5 min.)", at.Format(timeFormat), past.UTC().Format(timeFormat), now.UTC().Format(timeFormat))
	case at.After(future):
		return refuse("InvalidSignatureException", "Signature not yet current: %s is still later than %s (%s + 5 min.)", at.Format(timeFormat), future.UTC().Format(timeFormat), now.UTC().Format(timeFormat))
	}
	scope := strings.Join([]string{signed.date, signed.region, signed.service, signed.suffix}, "/")
	text := strings.Join([]string{algorithm, at.Format(timeFormat), scope, digest([]byte(canonical(r.Request, r.signedBody, signed.headers)))}, "\n")
	key := []byte("AWS4" + secret)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	if !hmac.Equal([]byte(hex.EncodeToString(mac(key, text))), []byte(signed.value)) {
		return refuse("InvalidSignatureException", "The request signature we calculated does not match the signature you provided. "+
			"Check your AWS Secret Access Key and signing method. Consult the service documentation for details.")
	}
	return nil
}

// canonical returns the request in the form that is signed.
func canonical(r *http.Request, body []byte, headers []string) string {
	var lines strings.Builder
	lines.WriteString(r.Method + "\n" + cmp.Or(r.URL.EscapedPath(), "/") + "\n" + strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20") + "\n")
	for _, name := range headers {
		var values []string
		for _, value := range headerValues(r, name) {
			values = append(values, strings.Join(strings.Fields(value), " "))
		}
		lines.WriteString(name + ":" + strings.Join(values, ",") + "\n")
	}
	lines.WriteString("\n" + strings.Join(headers, ";") + "\n" + digest(body))
	return lines.String()
}

// headerValues returns the values of a header, also of those that net/http
// keeps elsewhere.
func headerValues(r *http.Request, name string) []string {
	switch name {
	case "host":
		return []string{r.Host}
	case "content-length":
		return []string{strconv.FormatInt(r.ContentLength, 10)}
	default:
		return r.Header.Values(name)
	}
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	_, _ = h.Write([]byte(text)) // never fails
	return h.Sum(nil)
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
