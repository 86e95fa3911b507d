package vaulttest

import (
	"crypto/x509"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// Cert is an auth mount that admits clients by their TLS certificate.
type Cert struct {
	server *Server
	ns     *Namespace
	mount  string
	roles  map[string]CertRole
}

// CertRole admits the certificates that a CA has signed.
type CertRole struct {
	CA         []byte // PEM
	CommonName string // empty: any
	Grant
}

// Cert returns the auth mount of that type.
func (n *Namespace) Cert(mount string) *Cert {
	n.t.Helper()
	return mounted(n, n.auths, "cert", mount, func() *Cert { return &Cert{n.server, n, mount, map[string]CertRole{}} })
}

// Role sets the role of that name.
func (e *Cert) Role(name string, role CertRole) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	e.roles[name] = role
}

func (e *Cert) open(path string) bool { return path == "login" }

func (e *Cert) serve(c *call) *answer {
	switch {
	case c.path != "login":
		return c.noPath()
	case c.op != "update":
		return c.unsupported()
	}
	name, a := e.match(c, c.text("name"))
	if a != nil {
		return a
	}
	role, peer := e.roles[name], c.tls.PeerCertificates[0]
	return e.server.logIn(c, &token{
		ns: e.ns, path: "auth/" + e.mount + "/login", display: e.ns.display(e.mount) + "-" + name, entity: uuid(), grant: role.Grant, policies: policies(name),
		meta: map[string]string{
			"cert_name": name, "common_name": peer.Subject.CommonName, "serial_number": peer.SerialNumber.String(),
			"authority_key_id": colons(peer.AuthorityKeyId), "subject_key_id": colons(peer.SubjectKeyId),
		},
		renewal: func(c *call) *answer { // the server wants to see the certificate again
			_, a := e.match(c, name)
			return a
		},
	})
}

func colons(b []byte) string { return strings.ReplaceAll(fmt.Sprintf("% x", b), " ", ":") }

// match returns the role that admits the client: the named one, or any.
func (e *Cert) match(c *call, named string) (string, *answer) {
	switch {
	case c.tls == nil:
		return "", refused(http.StatusBadRequest, "tls connection required")
	case len(c.tls.PeerCertificates) == 0:
		return "", refused(http.StatusBadRequest, "client certificate must be supplied")
	}
	peer, trusted := c.tls.PeerCertificates[0], false
	for _, name := range slices.Sorted(maps.Keys(e.roles)) {
		role := e.roles[name]
		if named != "" && named != name || !role.trusts(peer) {
			continue
		}
		if trusted = true; role.CommonName == "" || role.CommonName == peer.Subject.CommonName {
			return name, nil
		}
	}
	if trusted {
		return "", refused(http.StatusBadRequest, "no chain matching all constraints could be found for this login certificate")
	}
	return "", refused(http.StatusBadRequest, "invalid certificate or no client certificate supplied; additionally got errors during verification: <nil>")
}

func (r CertRole) trusts(peer *x509.Certificate) bool {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(r.CA)
	_, err := peer.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err == nil
}
