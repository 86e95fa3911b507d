package openbao

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// Fields are those of a request or an answer.
type Fields = map[string]any

// An Answer is what the server says when it does not refuse.
type Answer struct {
	Data          Fields `json:"data"`
	LeaseID       string `json:"lease_id"`
	LeaseDuration int    `json:"lease_duration"`
	Auth          struct {
		ClientToken string `json:"client_token"`
		Accessor    string `json:"accessor"`
	} `json:"auth"`

	Keys      []string `json:"keys"` // of sys/init alone, as the next
	RootToken string   `json:"root_token"`
}

// Text returns a field of the answer that must be a text.
func (a *Answer) Text(t testing.TB, field string) string {
	t.Helper()
	text, ok := a.Data[field].(string)
	if !ok {
		t.Fatalf("the answer has no text %q", field)
	}
	return text
}

// A Refusal is what the server says when it refuses.
type Refusal struct {
	Status int
	Errors []string `json:"errors"`
}

func (r *Refusal) Error() string { return fmt.Sprintf("%d: %q", r.Status, r.Errors) }

// A Client calls the server as root in one namespace. Its methods that take a
// test fail it rather than return errors.
type Client struct {
	server    *Server
	namespace string
	token     string
}

// Environ returns what makes the program bao this client.
func (c *Client) Environ() []string {
	return []string{"BAO_ADDR=" + c.server.Address(), "BAO_CACERT=" + c.server.CAFile(), "BAO_NAMESPACE=" + c.namespace, "BAO_TOKEN=" + c.token}
}

// timeout is how long the server may take for one answer.
const timeout = 20 * time.Second

// Do makes one call, with fields as its body unless they are nil. The error is
// a *Refusal if the server answered.
func (c *Client) Do(ctx context.Context, method, path string, fields Fields) (*Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	if fields == nil {
		body = nil
	}
	req, err := http.NewRequestWithContext(ctx, method, c.server.Address()+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-Vault-Token", c.token)
	req.Header.Set("X-Vault-Namespace", c.namespace)
	resp, err := c.server.http().Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode > 299 {
		refusal := &Refusal{Status: resp.StatusCode}
		_ = json.Unmarshal(text, refusal) // else the status alone tells
		return nil, refusal
	}
	answer := &Answer{}
	if len(text) > 0 {
		err = json.Unmarshal(text, answer)
	}
	return answer, err
}

// http returns a client that keeps no connection, and so no goroutine.
func (s *Server) http() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{RootCAs: s.authority.Pool(), ServerName: s.names()[0], GetClientCertificate: s.ownCertificate},
	}}
}

func (c *Client) must(t testing.TB, method, path string, fields Fields) *Answer {
	t.Helper()
	answer, err := c.Do(context.WithoutCancel(t.Context()), method, path, fields)
	if err != nil {
		t.Fatalf("%s %s in namespace %q: %v", method, path, c.namespace, err)
	}
	return answer
}

// Read returns what is at a path.
func (c *Client) Read(t testing.TB, path string) *Answer {
	t.Helper()
	return c.must(t, http.MethodGet, path, nil)
}

// Write puts fields to a path.
func (c *Client) Write(t testing.TB, path string, fields Fields) *Answer {
	t.Helper()
	return c.must(t, http.MethodPut, path, fields)
}

// Delete removes what is at a path.
func (c *Client) Delete(t testing.TB, path string) {
	t.Helper()
	c.must(t, http.MethodDelete, path, nil)
}

// List returns the keys below a path, which may be none.
func (c *Client) List(t testing.TB, path string) []string {
	t.Helper()
	answer, err := c.Do(context.WithoutCancel(t.Context()), "LIST", path, nil)
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal) && refusal.Status == http.StatusNotFound:
		return nil
	case err != nil:
		t.Fatalf("LIST %s in namespace %q: %v", path, c.namespace, err)
	}
	list, _ := answer.Data["keys"].([]any)
	var keys []string
	for _, key := range list {
		keys = append(keys, fmt.Sprint(key))
	}
	return keys
}

// Namespace makes a namespace, and returns the client that is root there.
func (c *Client) Namespace(t testing.TB, name string) *Client {
	t.Helper()
	c.Write(t, "sys/namespaces/"+name, Fields{})
	return &Client{server: c.server, namespace: c.namespace + name + "/", token: c.token}
}

// Mount mounts an engine.
func (c *Client) Mount(t testing.TB, path, kind string) {
	t.Helper()
	c.Write(t, "sys/mounts/"+path, Fields{"type": kind})
}

// MountKV mounts a key-value engine of version 1 or 2, and waits until it is
// ready to be written to.
func (c *Client) MountKV(t testing.TB, path string, version int) {
	t.Helper()
	c.Write(t, "sys/mounts/"+path, Fields{"type": "kv", "options": Fields{"version": fmt.Sprint(version)}})
	anything := path + map[int]string{1: "/", 2: "/metadata"}[version]
	c.server.eventually(t, "the engine "+path+" is ready", func() error {
		_, err := c.Do(context.WithoutCancel(t.Context()), "LIST", anything, nil)
		var refusal *Refusal
		if errors.As(err, &refusal) && refusal.Status == http.StatusNotFound {
			return nil
		}
		return err
	})
}

// EnableAuth mounts an auth method, and configures it unless fields are nil.
func (c *Client) EnableAuth(t testing.TB, path, kind string, config Fields) {
	t.Helper()
	c.Write(t, "sys/auth/"+path, Fields{"type": kind})
	if config != nil {
		c.Write(t, "auth/"+path+"/config", config)
	}
}

// Policy writes a policy: the capabilities of each path, separated by spaces.
func (c *Client) Policy(t testing.TB, name string, rules map[string]string) {
	t.Helper()
	var text strings.Builder
	for path, capabilities := range rules {
		list, err := json.Marshal(strings.Fields(capabilities))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&text, "path %q { capabilities = %s }\n", path, list)
	}
	c.Write(t, "sys/policies/acl/"+name, Fields{"policy": text.String()})
}
