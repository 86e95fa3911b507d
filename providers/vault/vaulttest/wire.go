package vaulttest

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"strings"
	"time"
)

// A call is one request on its way to an engine.
type call struct {
	now     time.Time
	op      string // read, list, update, delete
	ns      *Namespace
	full    string // path in the namespace
	path    string // path below the mount
	query   url.Values
	body    map[string]any
	garbled bool // the body is no JSON object
	token   *token
	tls     *tls.ConnectionState
}

// text returns the field of the request, wherever it came.
func (c *call) text(field string) string {
	switch v := c.body[field].(type) {
	case nil:
		return c.query.Get(field)
	case string:
		return v
	default:
		return fmt.Sprint(v)
	}
}

// An answer is what the client gets: errors, data or nothing.
type answer struct {
	status int
	errors []string
	bare   any // the whole body, without an envelope
	envelope
}

// An envelope has the fields of every answer, in the server's order.
type envelope struct {
	RequestID     string   `json:"request_id"`
	LeaseID       string   `json:"lease_id"`
	Renewable     bool     `json:"renewable"`
	LeaseDuration int64    `json:"lease_duration"`
	Data          any      `json:"data"`
	WrapInfo      any      `json:"wrap_info"`
	Warnings      []string `json:"warnings"`
	Auth          *auth    `json:"auth"`
}

type fields = map[string]any

func found(data any) *answer { return &answer{status: http.StatusOK, envelope: envelope{Data: data}} }

func done() *answer { return &answer{status: http.StatusNoContent} }

func refused(status int, texts ...string) *answer { return &answer{status: status, errors: texts} }

// absent is the answer for a secret that is not there.
func absent() *answer { return refused(http.StatusNotFound) }

// logical is an error of the core. It lists the errors of a request that has
// a token, and is bare in a login.
func (c *call) logical(status int, text string) *answer {
	if c.token == nil {
		return refused(status, text)
	}
	return refused(status, "1 error occurred:\n\t* "+text+"\n\n")
}

func (c *call) unsupported() *answer {
	return c.logical(http.StatusMethodNotAllowed, "unsupported operation")
}

func (c *call) noPath() *answer { return c.logical(http.StatusNotFound, "unsupported path") }

// write sends the answer.
func (a *answer) write(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
	var body any
	switch {
	case a.status == http.StatusNoContent:
		w.WriteHeader(a.status)
		return
	case a.bare != nil:
		body = a.bare
	case a.status >= http.StatusBadRequest && a.Data == nil && a.Warnings == nil:
		body = fields{"errors": append([]string{}, a.errors...)}
	default:
		a.RequestID = uuid()
		body = a.envelope
	}
	raw, err := json.Marshal(body)
	if err != nil {
		raw, a.status = []byte(`{"errors":["vaulttest: what the test stored is no JSON"]}`), http.StatusInternalServerError
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(append(raw, '\n')) // the client may be gone
}

// ServeHTTP is the server without its connections.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.listener.calls.RLock()
	defer s.listener.calls.RUnlock()
	raw, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client is gone
	}
	r.Body = io.NopCloser(bytes.NewReader(raw)) // for Respond
	s.record(r, len(raw))
	target := strings.TrimPrefix(r.URL.Path, "/v1/")
	if s.faults.serve(w, r, target) {
		return
	}
	if target == r.URL.Path {
		absent().write(w)
		return
	}
	if clean := path.Clean(r.URL.Path); clean != strings.TrimSuffix(r.URL.Path, "/") {
		http.Redirect(w, r, clean, http.StatusTemporaryRedirect)
		return
	}
	c := &call{op: operation(r), query: r.URL.Query(), tls: r.TLS, full: target}
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	c.garbled = len(raw) > 0 && decoder.Decode(&c.body) != nil
	s.answer(c, r.Header).write(w)
}

// answer does what the call asks.
func (s *Server) answer(c *call, header http.Header) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.now = time.Now()
	s.expire(c.now)
	if a := s.status(c); a != nil {
		return a
	}
	if s.sealed {
		return refused(http.StatusServiceUnavailable, "Vault is sealed")
	}
	if c.ns = s.resolve(header.Get("X-Vault-Namespace"), &c.full); c.ns == nil {
		return refused(http.StatusNotFound, "namespace not found")
	}
	if c.garbled {
		return refused(http.StatusBadRequest, "error parsing JSON")
	}
	c.token = s.tokens[tokenOf(header)]
	return s.route(c)
}

func operation(r *http.Request) string {
	switch r.Method {
	case http.MethodGet:
		if r.URL.Query().Get("list") == "true" {
			return "list"
		}
		return "read"
	case http.MethodPost, http.MethodPut:
		return "update"
	case "LIST", http.MethodDelete:
		return strings.ToLower(r.Method)
	default:
		return "" // no engine knows it
	}
}

func tokenOf(header http.Header) string {
	if id := header.Get("X-Vault-Token"); id != "" {
		return id
	}
	id, _ := strings.CutPrefix(header.Get("Authorization"), "Bearer ")
	return id
}

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// random returns n letters and digits.
func random(n int) string {
	raw := make([]byte, n)
	_, _ = rand.Read(raw) // never fails
	for i, b := range raw {
		raw[i] = alphabet[int(b)%len(alphabet)]
	}
	return string(raw)
}

func uuid() string {
	raw := make([]byte, 16)
	_, _ = rand.Read(raw) // never fails
	h := hex.EncodeToString(raw)
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
