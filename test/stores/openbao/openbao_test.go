package openbao

import (
	"context"
	"errors"
	"net/http"
	"testing"
)

func TestDataOutlivesTheProcess(t *testing.T) {
	s := New(t, nil)
	s.MountKV(t, "kv", 2)
	s.Write(t, "kv/data/a", Fields{"data": Fields{"k": "v"}})
	team := s.Namespace(t, "team")
	team.MountKV(t, "kv", 1)
	team.Write(t, "kv/a", Fields{"k": "of the team"})

	s.Kill(t)
	if _, err := s.Do(t.Context(), http.MethodGet, "kv/data/a", nil); err == nil {
		t.Error("a server that was killed answers")
	}
	s.Start(t)
	s.Seal(t)
	var refusal *Refusal
	if _, err := s.Do(t.Context(), http.MethodGet, "kv/data/a", nil); !errors.As(err, &refusal) || refusal.Status != http.StatusServiceUnavailable {
		t.Errorf("a sealed server answers %v, want 503", err)
	}
	s.Unseal(t)
	if got := s.Read(t, "kv/data/a").Data["data"].(Fields)["k"]; got != "v" {
		t.Errorf("kv/data/a is %v", got)
	}
	if got := team.Read(t, "kv/a").Text(t, "k"); got != "of the team" {
		t.Errorf("kv/a of the team is %q", got)
	}
	if got := s.List(t, "kv/metadata"); len(got) != 1 || got[0] != "a" {
		t.Errorf("LIST = %q", got)
	}
}

func TestTheAuditLogCountsRequestsOfOthers(t *testing.T) {
	s := New(t, nil)
	s.MountKV(t, "kv", 1)
	s.Write(t, "kv/a", Fields{"k": "v"})
	s.Policy(t, "reader", map[string]string{"kv/a": "read list"})
	token := s.Write(t, "auth/token/create", Fields{"policies": []string{"reader"}, "display_name": "someone"}).Auth
	reader := &Client{server: s, token: token.ClientToken}
	requests := s.During(t, func() {
		reader.Read(t, "kv/a")
		if _, err := reader.Do(context.Background(), http.MethodGet, "kv/b", nil); err == nil {
			t.Error("kv/b can be read")
		}
	})
	if len(requests) != 2 || len(requests.At("kv/", "a")) != 1 || requests[0].Accessor != token.Accessor || requests[0].Error != "" || requests[1].Error == "" {
		t.Errorf("requests: %v", requests)
	}
}

func TestAGateHoldsCallersUp(t *testing.T) {
	s := New(t, nil)
	gate := s.Gate(t)
	behind := func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, gate.Address()+"/v1/sys/health", nil)
		if err != nil {
			return err
		}
		resp, err := s.http().Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	}
	if err := behind(); err != nil {
		t.Fatal(err)
	}
	waiting := gate.Close()
	ended := make(chan error, 1)
	go func() { ended <- behind() }()
	<-waiting
	select {
	case err := <-ended:
		t.Errorf("a call passed the gate: %v", err)
	default:
	}
	gate.Open()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAnotherAuthorityAndClientCertificates(t *testing.T) {
	clients := NewAuthority(t)
	s := New(t, &Options{Names: []string{"bao.test"}, ClientAuthority: clients})
	old := s.authority
	s.SetAuthority(t, NewAuthority(t))
	client := s.http()
	client.Transport.(*http.Transport).TLSClientConfig.RootCAs = old.Pool()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.Address()+"/v1/sys/health", nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp, err := client.Do(req); err == nil {
		t.Errorf("the server still has a certificate of the old authority: %v", resp.Body.Close())
	}
	client = s.http()
	client.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = nil
	if resp, err := client.Do(req); err == nil {
		t.Errorf("the server takes clients without a certificate: %v", resp.Body.Close())
	}
}
