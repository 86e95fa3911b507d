package azuretest

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"syscall"
)

// imdsAddress is where every virtual machine finds IMDS.
const imdsAddress = "169.254.169.254"

// Dial connects to the server, whatever the address is: with TLS, but for IMDS
// at 169.254.169.254:80. It is made to be an http.Transport's DialContext. A
// vault that Server.Vault has not made is a host that DNS does not find, and
// nothing else is served without TLS.
func (s *Server) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial azuretest: %w", err)
	}
	host := hostname(address)
	switch {
	case !s.resolves(host):
		unknown := &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
		return nil, &net.OpError{Op: "dial", Net: network, Err: unknown}
	case port == "80" && (host != imdsAddress || s.imds.isOff()):
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("connect %s: %w", address, syscall.ECONNREFUSED)}
	case port == "80":
		return s.plain.Dial(ctx)
	default:
		return s.secure.Dial(ctx)
	}
}

// resolves reports whether a host has an address.
func (s *Server) resolves(host string) bool {
	name, _, isVault := s.vaultOf(host)
	if !isVault {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.vaults[name] != nil
}

// CAs returns the authorities to trust: the one in CAFile.
func (s *Server) CAs() *x509.CertPool { return s.ca.Pool() }
