package main

import (
	"crypto/rand"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// startConfined runs the command, as an image does it: in the root folder.
func startConfined(t *testing.T, binary, sockets string, flags ...string) *plugin.Dir {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"--providers=vault", "--socket-dir=" + sockets}, flags...)...)
	cmd.Dir, cmd.Stderr = "/", os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	dir := plugin.NewDir([]string{sockets}, nil)
	t.Cleanup(func() {
		_ = dir.Close()
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(20 * time.Second); dir.Check(t.Context(), "vault") != nil; {
		select {
		case <-tick.C:
		case <-end:
			t.Fatal("the provider does not answer")
		}
	}
	return dir
}

// A class may name a file of the provider's container. It is read only if it is
// in a folder that a flag names.
func TestAProviderReadsNoFilesButThoseThatFlagsName(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "keymount-provider")
	if out, err := exec.Command("go", "build", "-buildvcs=false", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	folder := t.TempDir()
	ca := filepath.Join(folder, "ca.crt")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	const unread = "has none that can be read"
	for _, c := range []struct {
		name  string
		flags []string
		reads bool
	}{
		{"nothing names it", nil, false},
		{"a socket for profiles is elsewhere", []string{"--pprof-socket=" + filepath.Join(shortDir(t), "pprof.sock")}, false},
		{"its folder is readable", []string{"--readable-paths=" + folder}, true},
		{"the file is readable", []string{"--readable-paths=" + ca}, true},
		{"another flag names it", []string{"--vault-tls-ca-cert=" + ca}, true},
		{"there is no sandbox", []string{"--sandbox=false"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := startConfined(t, binary, shortDir(t), c.flags...).Lookup("vault")
			if err != nil {
				t.Fatal(err)
			}
			_, err = p.Fetch(t.Context(), &provider.Request{
				Class: "ns/c", Mode: 0o644, Pod: provider.Pod{Namespace: "ns", Name: "p", UID: "u", ServiceAccount: "sa"},
				Tokens: provider.Tokens{"vault": {Value: secret.New([]byte(rand.Text())), Expires: time.Now().Add(time.Hour)}},
				Parameters: map[string]string{
					"roleName": "r", "vaultAddress": server.URL, "vaultCACertPath": ca,
					"objects": "- {objectName: a, secretPath: secret/data/a, secretKey: k}",
				},
			})
			if err == nil || strings.Contains(err.Error(), unread) == c.reads {
				t.Errorf("Fetch = %v; want that the file is read: %v", err, c.reads)
			}
		})
	}
}
