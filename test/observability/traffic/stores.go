package traffic

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/keymount/keymount/pkg/plugin"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/providertest"
	"github.com/keymount/keymount/providers/file"
)

// stores are what the providers read: files, and two stores in memory, of
// which one leases credentials and the other has certificates that expire.
type stores struct {
	files        string // folder
	database     *providertest.Fake
	certificates *expiring
}

// expiring is a provider that says when what it serves expires.
type expiring struct {
	*providertest.Fake
	end atomic.Pointer[time.Time]
}

// endIn sets when it expires.
func (e *expiring) endIn(d time.Duration) {
	end := time.Now().Add(d)
	e.end.Store(&end)
}

// Fetch implements provider.Provider. Of what has expired its store warns.
func (e *expiring) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	bundle, err := e.Fake.Fetch(ctx, req)
	if end := e.end.Load(); err == nil && end != nil && time.Now().Before(*end) {
		bundle.Expires = *end
	}
	return bundle, err
}

// Names of the providers, and of one that no node has.
const (
	files        = "file"
	database     = "database"
	certificates = "certificates"
	missing      = "missing"
)

func (c *Cluster) serveStores(ctx context.Context) error {
	c.stores = stores{files: c.path("store"), database: &providertest.Fake{}, certificates: &expiring{Fake: &providertest.Fake{}}}
	c.stores.database.Put("url", []byte("postgres://db.shop.svc"))
	c.stores.certificates.Put("web.pem", []byte("first"))
	if err := errors.Join(os.MkdirAll(filepath.Join(c.stores.files, "shop"), 0o700), c.stores.change("first"), os.Mkdir(c.path("providers"), 0o700)); err != nil {
		return err
	}
	local, err := file.New(&file.Options{Root: c.stores.files})
	if err != nil {
		return err
	}
	return errors.Join(
		c.serve(ctx, files, local),
		c.serve(ctx, database, c.stores.database),
		c.serve(ctx, certificates, c.stores.certificates))
}

// serve makes a provider a process behind a socket would be.
func (c *Cluster) serve(ctx context.Context, name string, p provider.Provider) error {
	lis, err := net.Listen("unix", c.path("providers", name+".sock"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	served := make(chan error, 1)
	go func() { served <- plugin.Serve(ctx, lis, p, nil) }()
	c.cleanup = append(c.cleanup, func() error { cancel(); return <-served })
	return nil
}

// change replaces the one file of the file provider.
func (s *stores) change(value string) error {
	fresh := filepath.Join(s.files, "shop", ".fresh")
	return errors.Join(os.WriteFile(fresh, []byte(value), 0o600), os.Rename(fresh, filepath.Join(s.files, "shop", "password")))
}

// writeClasses writes a class for each provider, with its name, and one of a
// secret that the store denies.
func (c *Cluster) writeClasses() error {
	var text strings.Builder
	for _, class := range []struct {
		name, provider string
		parameters     map[string]string
	}{
		{files, files, map[string]string{"objects": "[{objectName: password}]", "rotationInterval": "2s"}},
		{database, database, map[string]string{"objects": "[{name: url}]", "lease": "shop"}},
		{certificates, certificates, map[string]string{"objects": "[{name: web.pem}]", "rotationInterval": "1s"}},
		{"denied", certificates, map[string]string{"objects": "[{name: other.pem}]"}},
		{missing, missing, nil},
	} {
		parameters, err := json.Marshal(class.parameters)
		if err != nil {
			return err
		}
		fmt.Fprintf(&text, "---\napiVersion: secrets-store.csi.x-k8s.io/v1\nkind: SecretProviderClass\nmetadata: {name: %s, namespace: shop}\nspec: {provider: %s, parameters: %s}\n", class.name, class.provider, parameters)
	}
	return errors.Join(os.Mkdir(c.path("classes"), 0o755), os.WriteFile(c.path("classes", "classes.yaml"), []byte(text.String()), 0o644))
}
