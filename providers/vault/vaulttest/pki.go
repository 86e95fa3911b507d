package vaulttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"
)

// PKI is a mount that issues certificates, signed by a CA of its own.
type PKI struct {
	server *Server
	ca     authority
	roles  map[string]PKIRole
}

// PKIRole says which certificates a role issues.
type PKIRole struct {
	TTL     time.Duration // of a certificate whose request names none; zero: MaxTTL
	MaxTTL  time.Duration // zero: 768 h
	Domains []string      // whose subdomains may be named; nil: every name
	RSA     bool          // keys are RSA with 2048 bits rather than P-256
	Leased  bool          // certificates have a lease, which cannot be renewed
}

// PKI returns the certificate mount.
func (n *Namespace) PKI(mount string) *PKI {
	n.t.Helper()
	return mounted(n, n.mounts, "pki", mount, func() *PKI {
		return &PKI{n.server, newAuthority(n.t, "vaulttest "+mount), map[string]PKIRole{}}
	})
}

// CAPEM returns the certificate of the mount's CA.
func (e *PKI) CAPEM() []byte { return e.ca.pem() }

// Role sets the role of that name.
func (e *PKI) Role(name string, role PKIRole) {
	e.server.mu.Lock()
	defer e.server.mu.Unlock()
	e.roles[name] = role
}

func (e *PKI) open(path string) bool { return path == "cert/ca" || path == "cert/ca_chain" }

func (e *PKI) serve(c *call) *answer {
	if e.open(c.path) {
		return e.serveCA(c)
	}
	verb, name, _ := strings.Cut(c.path, "/")
	role, ok := e.roles[name]
	switch {
	case verb != "issue" && verb != "sign", name == "", strings.Contains(name, "/"):
		return c.noPath()
	case c.op != "update":
		return c.unsupported()
	case !ok:
		return refused(http.StatusBadRequest, "unknown role: "+name)
	}
	key, a := e.subjectKey(c, role, verb)
	if a != nil {
		return a
	}
	return e.certify(c, role, key)
}

func (e *PKI) serveCA(c *call) *answer {
	if c.op != "read" {
		return c.unsupported()
	}
	text := trimmed(e.CAPEM())
	f := fields{"certificate": text, "revocation_time": 0, "revocation_time_rfc3339": ""}
	if c.path == "cert/ca_chain" {
		f["ca_chain"] = text
	}
	return found(f)
}

// A subjectKey is what a certificate is for. Its private half is nil if the
// client keeps it.
type subjectKey struct {
	public  crypto.PublicKey
	private crypto.PrivateKey
	name    string // of a signing request
}

// subjectKey makes a key, or takes that of the signing request.
func (e *PKI) subjectKey(c *call, role PKIRole, verb string) (subjectKey, *answer) {
	if verb == "sign" {
		return requested(c.text("csr"))
	}
	if role.RSA {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			return subjectKey{}, refused(http.StatusInternalServerError, err.Error())
		}
		return subjectKey{key.Public(), key, ""}, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return subjectKey{}, refused(http.StatusInternalServerError, err.Error())
	}
	return subjectKey{key.Public(), key, ""}, nil
}

// requested reads a signing request.
func requested(csr string) (subjectKey, *answer) {
	if csr == "" {
		return subjectKey{}, refused(http.StatusBadRequest, `"csr" is empty`)
	}
	block, _ := pem.Decode([]byte(csr))
	if block == nil {
		return subjectKey{}, refused(http.StatusBadRequest, "csr contains no data")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil || request.CheckSignature() != nil {
		return subjectKey{}, refused(http.StatusBadRequest, "certificate request could not be parsed: it is malformed or not signed by its key")
	}
	return subjectKey{request.PublicKey, nil, request.Subject.CommonName}, nil
}

// certify issues the certificate that the call asks for.
func (e *PKI) certify(c *call, role PKIRole, key subjectKey) *answer {
	template, a := role.template(c, key.name)
	if a != nil {
		return a
	}
	ttl, warnings, a := role.lifetime(c)
	if a != nil {
		return a
	}
	template.NotBefore, template.NotAfter = c.now.Add(-30*time.Second).Truncate(time.Second), c.now.Add(ttl).Truncate(time.Second)
	der, err := e.ca.sign(template, key.public)
	if err != nil {
		return refused(http.StatusInternalServerError, err.Error())
	}
	data, a := e.render(c, template, der, key.private)
	if a != nil {
		return a
	}
	if key.private == nil && c.text("common_name") != "" {
		warnings = append(warnings, `the common_name field was provided but the role is set with "use_csr_common_name" set to true`)
	}
	result := found(data)
	if role.Leased {
		left := template.NotAfter.Sub(c.now)
		result = e.server.lease(c, data, Lifetime{TTL: left, MaxTTL: left, NotRenewable: true})
	}
	result.Warnings = warnings
	return result
}

// template has the names of the certificate.
func (r PKIRole) template(c *call, requestedName string) (*x509.Certificate, *answer) {
	name := c.text("common_name")
	if requestedName != "" {
		name = requestedName
	}
	deny := func(text string) (*x509.Certificate, *answer) { return nil, refused(http.StatusBadRequest, text) }
	if name == "" {
		return deny(`the common_name field is required, or must be provided in a CSR with "use_csr_common_name" set to true, unless "require_cn" is set to false`)
	}
	if !r.admits(name) {
		return deny("common name " + name + " not allowed by this role")
	}
	template := &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, BasicConstraintsValid: true, DNSNames: []string{name},
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment | x509.KeyUsageKeyAgreement,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if c.text("exclude_cn_from_sans") == "true" {
		template.DNSNames = nil
	}
	for _, alternate := range listOf(c.text("alt_names")) {
		if !r.admits(alternate) {
			return deny("subject alternate name " + alternate + " not allowed by this role")
		}
		template.DNSNames = append(template.DNSNames, alternate)
	}
	for _, address := range listOf(c.text("ip_sans")) {
		ip := net.ParseIP(address)
		if ip == nil {
			return deny(fmt.Sprintf("the value %q is not a valid IP address", address))
		}
		template.IPAddresses = append(template.IPAddresses, ip)
	}
	if c.text("uri_sans") != "" {
		return deny("URI Subject Alternative Names are not allowed in this role, but were provided via the API")
	}
	return template, nil
}

func (r PKIRole) admits(name string) bool {
	return r.Domains == nil || slices.ContainsFunc(r.Domains, func(domain string) bool { return strings.HasSuffix(name, "."+domain) })
}

// listOf splits a list with commas.
func listOf(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ',' || r == ' ' })
}

// lifetime is what the call asks for, up to the role's maximum.
func (r PKIRole) lifetime(c *call) (time.Duration, []string, *answer) {
	asked, a := duration(c, "ttl")
	if a != nil {
		return 0, nil, a
	}
	limit := or(r.MaxTTL, defaultTTL)
	asked = or(asked, r.TTL, defaultTTL)
	if asked > limit {
		return limit, []string{fmt.Sprintf("TTL %q is longer than permitted maxTTL %q, so maxTTL is being used", asked, limit)}, nil
	}
	return asked, nil, nil
}

// render writes the certificate in the format that the call asks for.
func (e *PKI) render(c *call, template *x509.Certificate, der []byte, private crypto.PrivateKey) (fields, *answer) {
	text := func(kind string, der []byte) string {
		return trimmed(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	format := c.text("format")
	switch format {
	case "", "pem", "pem_bundle":
	case "der":
		text = func(_ string, der []byte) string { return base64.StdEncoding.EncodeToString(der) }
	default:
		return nil, refused(http.StatusBadRequest, `the "format" path parameter must be "pem", "der", or "pem_bundle"`)
	}
	ca, cert := text("CERTIFICATE", e.ca.cert.Raw), text("CERTIFICATE", der)
	f := fields{
		"certificate": cert, "issuing_ca": ca, "ca_chain": []string{ca}, "serial_number": serial(template.SerialNumber),
		"expiration": template.NotAfter.Unix(), "not_before": template.NotBefore.Unix(),
	}
	parts := []string{cert, ca}
	if private != nil {
		kind, name, der := marshalKey(private, c.text("private_key_format") == "pkcs8")
		f["private_key"], f["private_key_type"] = text(kind, der), name
		kind, _, der = marshalKey(private, false) // a bundle never has the other form
		parts = append([]string{text(kind, der)}, parts...)
	}
	if format == "pem_bundle" {
		f["certificate"] = strings.Join(parts, "\n")
	}
	return f, nil
}

// marshalKey returns the PEM type, the name of the algorithm and the key.
func marshalKey(key crypto.PrivateKey, pkcs8 bool) (kind, name string, der []byte) {
	name = "ec"
	if _, isRSA := key.(*rsa.PrivateKey); isRSA {
		name = "rsa"
	}
	if pkcs8 {
		der, _ = x509.MarshalPKCS8PrivateKey(key) // it is one of the two
		return "PRIVATE KEY", name, der
	}
	switch key := key.(type) {
	case *rsa.PrivateKey:
		return "RSA PRIVATE KEY", name, x509.MarshalPKCS1PrivateKey(key)
	case *ecdsa.PrivateKey:
		der, _ = x509.MarshalECPrivateKey(key) // P-256 has a name
	}
	return "EC PRIVATE KEY", name, der
}

// serial writes the number as bytes: 1a:2b:3c.
func serial(n *big.Int) string {
	var parts []string
	for _, b := range n.Bytes() {
		parts = append(parts, fmt.Sprintf("%02x", b))
	}
	return strings.Join(parts, ":")
}

// trimmed is PEM as the server writes it, without the last line break.
func trimmed(pem []byte) string { return strings.TrimSpace(string(pem)) }
