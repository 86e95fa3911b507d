package serve

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzEndpoint gives arbitrary text as an endpoint: it is refused, or it is an
// address that can be listened on, and means the same when written in full.
func FuzzEndpoint(f *testing.F) {
	for _, seed := range []string{
		"", "unix:", "unix://", "unix:///a.sock", "unix:a.sock", "unix://a.sock", "unix:////a", "unix:@a", "unix://@a", "unix:/a/", "unix:///\x00",
		"tcp://:1", "tcp://[::1]:80", "tcp:localhost:1", "tcp://a:b:c", "http://a:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, endpoint string) {
		network, address, err := parseEndpoint(endpoint)
		if err != nil {
			if !errors.Is(err, ErrEndpoint) || network != "" || address != "" {
				t.Errorf("parseEndpoint(%q) = %q, %q, %v; want nothing but %v", endpoint, network, address, err, ErrEndpoint)
			}
			return
		}
		full := network + "://" + address
		switch network {
		case "tcp":
			if _, port, err := net.SplitHostPort(address); err != nil || port == "" {
				t.Errorf("parseEndpoint(%q) = %q, which has no port", endpoint, address)
			}
		case "unix":
			if address == "" || len(address) > maxSocketPath || strings.ContainsRune(address, 0) || address[0] == '@' {
				t.Errorf("parseEndpoint(%q) = %q, which is no path of a socket", endpoint, address)
			}
			if !filepath.IsAbs(address) {
				full = network + ":" + address
			}
		default:
			t.Errorf("parseEndpoint(%q) = network %q", endpoint, network)
		}
		if n, a, err := parseEndpoint(full); n != network || a != address || err != nil {
			t.Errorf("parseEndpoint(%q) = %q, and of that in full, %q, it is %q, %v", endpoint, address, full, a, err)
		}
	})
}
