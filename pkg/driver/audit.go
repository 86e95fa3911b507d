package driver

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/keymount/keymount/pkg/audit"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
)

// openAudit opens the audit log; without one, nothing is written.
func (d *Driver) openAudit() error {
	name := d.config.AuditLog
	if name == "" {
		return nil
	}
	key, err := d.auditKey()
	if err != nil {
		return fmt.Errorf("key of the audit log: %w", err)
	}
	sink, err := audit.Open(name)
	if err != nil {
		return fmt.Errorf("open --audit-log: %w", err)
	}
	d.audit, err = audit.New(sink, audit.Options{Node: d.config.NodeID, Key: key, Required: d.config.AuditRequired && name != "-"})
	if err != nil {
		return fmt.Errorf("open --audit-log: %w", err)
	}
	return nil
}

const auditKeySize = 32

// auditKey returns the key of fingerprints, which is made once for each boot of
// the node.
func (d *Driver) auditKey() ([]byte, error) {
	path := filepath.Join(d.config.StateDir, "audit.key")
	key, err := os.ReadFile(path)
	switch {
	case err == nil && len(key) == auditKeySize:
		return key, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	key = make([]byte, auditKeySize)
	_, _ = rand.Read(key) // never fails
	fresh := path + ".new"
	if err := os.WriteFile(fresh, key, 0o600); err != nil {
		return nil, err
	}
	return key, os.Rename(fresh, path)
}

// audited returns the lookup with the decorators around those that share
// fetches, if there is an audit log.
func (d *Driver) audited(inner provider.Lookup, shared ...provider.Middleware) provider.Lookup {
	if d.audit == nil {
		return provider.Decorate(inner, shared...)
	}
	return provider.Decorate(provider.Decorate(provider.Decorate(inner, audit.Asked), shared...), d.audit.Middleware())
}

// auditedPublisher returns the publisher with its calls written down.
func (d *Driver) auditedPublisher(next publish.Publisher) publish.Publisher {
	if d.audit == nil {
		return next
	}
	return d.audit.Observe(next, d.volumes)
}

func (d *Driver) closeAudit() error {
	if d.audit == nil {
		return nil
	}
	return d.audit.Close()
}
