package openbao

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// A Request is one request of a provider, as the audit log has it.
type Request struct {
	Operation string // create, read, update, delete, list
	Path      string
	Namespace string
	Accessor  string // of the token that was shown; empty for logins
	Error     string // why it was refused; empty if it was not
}

// Requests are those of a span of time, in their order.
type Requests []Request

// entry is a line of the audit log.
type entry struct {
	Type  string `json:"type"`
	Error string `json:"error"`
	Auth  struct {
		DisplayName string `json:"display_name"`
	} `json:"auth"`
	Request struct {
		ID        string `json:"id"`
		Operation string `json:"operation"`
		Path      string `json:"path"`
		Accessor  string `json:"client_token_accessor"`
		Namespace struct {
			Path string `json:"path"`
		} `json:"namespace"`
	} `json:"request"`
}

// Requests returns what was asked of the server by anybody but root.
func (s *Server) Requests(t testing.TB) Requests {
	t.Helper()
	text, err := os.ReadFile(s.path("audit"))
	if err != nil {
		t.Fatal(err)
	}
	var all Requests
	place := make(map[string]int)
	for line := range bytes.Lines(text) {
		var e entry
		if json.Unmarshal(line, &e) != nil {
			continue // the last one is being written
		}
		if e.Auth.DisplayName == "root" {
			continue
		}
		i, known := place[e.Request.ID]
		if !known {
			i, place[e.Request.ID] = len(all), len(all)
			all = append(all, Request{
				Operation: e.Request.Operation, Path: e.Request.Path,
				Namespace: e.Request.Namespace.Path, Accessor: e.Request.Accessor,
			})
		}
		if e.Error != "" {
			all[i].Error = e.Error
		}
	}
	return all
}

// During returns the requests that were made while f ran.
func (s *Server) During(t testing.TB, f func()) Requests {
	t.Helper()
	before := len(s.Requests(t))
	f()
	return s.Requests(t)[before:]
}

// At returns the requests to paths that begin with prefix and end in suffix.
func (r Requests) At(prefix, suffix string) Requests {
	return slices.DeleteFunc(slices.Clone(r), func(one Request) bool {
		return !strings.HasPrefix(one.Path, prefix) || !strings.HasSuffix(one.Path, suffix)
	})
}

// Logins returns those that asked for a token.
func (r Requests) Logins() Requests { return r.At("auth/", "/login") }

// String lists the requests for a failing test.
func (r Requests) String() string {
	var text strings.Builder
	for _, one := range r {
		text.WriteString("\n  " + one.Operation + " " + one.Namespace + one.Path)
		if one.Error != "" {
			text.WriteString(": " + strings.Join(strings.Fields(one.Error), " "))
		}
	}
	return text.String()
}
