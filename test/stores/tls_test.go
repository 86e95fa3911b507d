package stores

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/providers/vault"
	"github.com/keymount/keymount/test/stores/openbao"
)

// store replaces a file at once, as kubelet does in a mounted ConfigMap.
func store(t testing.TB, path string, text []byte) string {
	t.Helper()
	fresh := path + ".new"
	if err := errors.Join(os.WriteFile(fresh, text, 0o600), os.Rename(fresh, path)); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTheServerMustBeTheRightOne(t *testing.T) {
	w, password := newKV(t, nil)
	authority, err := os.ReadFile(w.CAFile())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	store(t, filepath.Join(dir, "another.pem"), openbao.NewAuthority(t).PEM())
	store(t, filepath.Join(dir, "right.pem"), authority)
	wrong := store(t, filepath.Join(t.TempDir(), "wrong.pem"), openbao.NewAuthority(t).PEM())

	t.Run("file", func(t *testing.T) {
		mustHave(t, w.provider(t, vault.OpenBao, nil), w.ask(t, passwordObject, nil), password)
	})
	t.Run("folder", func(t *testing.T) {
		p := w.provider(t, vault.OpenBao, func(o *vault.Options) { o.CACert, o.CADirectory = "", dir })
		mustHave(t, p, w.ask(t, passwordObject, nil), password)
	})
	t.Run("file of the class", func(t *testing.T) {
		p := w.provider(t, vault.OpenBao, func(o *vault.Options) { o.CACert = wrong })
		mustHave(t, p, w.ask(t, passwordObject, map[string]string{"openbaoCACertPath": w.CAFile()}), password)
	})
	t.Run("skipped verification", func(t *testing.T) {
		p := w.provider(t, vault.OpenBao, func(o *vault.Options) { o.CACert = wrong })
		mustHave(t, p, w.ask(t, passwordObject, map[string]string{"openbaoSkipTLSVerify": "true"}), password)
	})
	t.Run("environment", func(t *testing.T) {
		p := w.provider(t, vault.OpenBao, func(o *vault.Options) {
			*o = vault.Options{Environment: func(name string) string {
				return map[string]string{"BAO_ADDR": w.Address(), "VAULT_CACERT": w.CAFile(), "BAO_TOKEN": newSecret()}[name]
			}}
		})
		mustHave(t, p, w.ask(t, passwordObject, nil), password)
	})
	t.Run("another authority", func(t *testing.T) {
		p := w.provider(t, vault.OpenBao, func(o *vault.Options) { o.CACert = wrong })
		fails(t, p, w.ask(t, passwordObject, nil), provider.ErrUnavailable, "certificate signed by unknown authority")
	})
	t.Run("the system's authorities", func(t *testing.T) {
		p := w.provider(t, vault.OpenBao, func(o *vault.Options) { o.CACert = "" })
		fails(t, p, w.ask(t, passwordObject, nil), provider.ErrUnavailable, "certificate signed by unknown authority")
	})
	t.Run("another name", func(t *testing.T) {
		p := w.provider(t, vault.OpenBao, func(o *vault.Options) { o.ServerName = "bao.test" })
		fails(t, p, w.ask(t, passwordObject, nil), provider.ErrUnavailable, "bao.test")
	})
}

func TestTheServersNameMayBeAnother(t *testing.T) {
	w, password := newKV(t, &openbao.Options{Names: []string{"bao.test"}})
	req := w.ask(t, passwordObject, nil)
	fails(t, w.provider(t, vault.OpenBao, nil), req, provider.ErrUnavailable, "127.0.0.1")
	mustHave(t, w.provider(t, vault.OpenBao, func(o *vault.Options) { o.ServerName = "bao.test" }), req, password)
	mustHave(t, w.provider(t, vault.OpenBao, nil), w.ask(t, passwordObject, map[string]string{"openbaoTLSServerName": "bao.test"}), password)
}

func TestAServerMayWantAClientCertificate(t *testing.T) {
	clients := openbao.NewAuthority(t)
	w, password := newKV(t, &openbao.Options{ClientAuthority: clients})
	dir := t.TempDir()
	certificate, key := clients.Issue(t, "keymount")
	options := func(o *vault.Options) {
		o.ClientCert = store(t, filepath.Join(dir, "tls.crt"), certificate)
		o.ClientKey = store(t, filepath.Join(dir, "tls.key"), key)
	}
	said.forbid(string(key))
	req := w.ask(t, passwordObject, nil)
	// The server says why only after the handshake, when the request may be on
	// its way: what the client sees first is chance.
	fails(t, w.provider(t, vault.OpenBao, nil), req, provider.ErrUnavailable, w.Address())
	mustHave(t, w.provider(t, vault.OpenBao, options), req, password)
}

// What is replaced on disk is used by the next call, without a restart.
func TestCertificatesOnDiskMayBeReplaced(t *testing.T) {
	clients := openbao.NewAuthority(t)
	w, password := newKV(t, &openbao.Options{ClientAuthority: clients})
	dir := t.TempDir()
	stranger, strangersKey := openbao.NewAuthority(t).Issue(t, "keymount")
	crt, key := store(t, filepath.Join(dir, "tls.crt"), stranger), store(t, filepath.Join(dir, "tls.key"), strangersKey)
	p := w.provider(t, vault.OpenBao, func(o *vault.Options) { o.ClientCert, o.ClientKey = crt, key })
	req := w.ask(t, passwordObject, nil)
	fails(t, p, req, provider.ErrUnavailable, w.Address())

	right, rightKey := clients.Issue(t, "keymount")
	store(t, crt, right)
	store(t, key, rightKey)
	bundle := mustHave(t, p, req, password)

	w.SetAuthority(t, openbao.NewAuthority(t))
	eventually(t, "the new authority is known", func() error {
		again, err := p.Fetch(t.Context(), w.holding(t, bundle, req))
		if err == nil && !again.Unchanged {
			err = fmt.Errorf("the versions are %v, were %v", again.Versions, bundle.Versions)
		}
		return err
	})
	// Files that are broken for a moment change nothing.
	store(t, crt, []byte("half of it"))
	mustHave(t, p, w.ask(t, passwordObject, nil), password)
}
