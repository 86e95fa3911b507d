package awstest

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"syscall"
)

// Where the agent of EKS Pod Identity is.
const (
	agentIPv4 = "169.254.170.23"
	agentIPv6 = "fd00:ec2::23"
)

// Dial connects to the server, whatever the address is: with TLS if the port is
// 443. It is made to be an http.Transport's DialContext. The addresses of the
// agent refuse connections that Agent.Off says they do.
func (s *Server) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("dial awstest: %w", err)
	}
	switch {
	case s.agent.isOff(host):
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("connect %s: %w", address, syscall.ECONNREFUSED)}
	case port == "443":
		return s.secure.Dial(ctx)
	default:
		return s.plain.Dial(ctx)
	}
}

// An endpoint is what a host name of AWS means.
type endpoint struct{ service, region string }

// A partition is a part of AWS on its own: how its regions begin, and how its
// host names end, without and with IPv6.
type partition struct {
	name    string
	regions string
	domains []string
}

// partitions has those first whose regions or domains begin or end with what
// others do, too.
func partitions() []partition {
	return []partition{
		{"aws-cn", "cn-", []string{"amazonaws.com.cn", "api.amazonwebservices.com.cn"}},
		{"aws-us-gov", "us-gov-", []string{"amazonaws.com", "api.aws"}},
		{"aws-iso-b", "us-isob-", []string{"sc2s.sgov.gov", "api.aws.scloud"}},
		{"aws-iso-e", "eu-isoe-", []string{"cloud.adc-e.uk", "api.cloud-aws.adc-e.uk"}},
		{"aws-iso-f", "us-isof-", []string{"csp.hci.ic.gov", "api.aws.hci.ic.gov"}},
		{"aws-iso", "us-iso-", []string{"c2s.ic.gov", "api.aws.ic.gov"}},
		{"aws-eusc", "eusc-", []string{"amazonaws.eu", "api.amazonwebservices.eu"}},
		{"aws", "", []string{"amazonaws.com", "api.aws"}},
	}
}

func partitionOf(region string) string {
	all := partitions()
	return all[slices.IndexFunc(all, func(p partition) bool { return strings.HasPrefix(region, p.regions) })].name
}

// endpointName matches what is before the domain: perhaps the name of a VPC
// endpoint, the service, and the region.
var endpointName = regexp.MustCompile(`^(?:[a-z0-9-]+\.)?(secretsmanager|ssm|sts)(?:-fips)?\.([a-z]+(?:-[a-z]+)+-\d)(?:\.vpce)?$`)

// endpointOf returns what the Host of a request means. For a name that is none
// of AWS's, both parts are empty.
func endpointOf(host string) endpoint {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if host == "sts.amazonaws.com" { // of a time when there was one region
		return endpoint{"sts", "us-east-1"}
	}
	for _, p := range partitions() {
		for _, domain := range p.domains {
			rest, ok := strings.CutSuffix(host, "."+domain)
			if m := endpointName.FindStringSubmatch(rest); ok && m != nil && partitionOf(m[2]) == p.name {
				return endpoint{m[1], m[2]}
			}
		}
	}
	return endpoint{}
}

// CAs returns the authorities to trust: the one in CAFile.
func (s *Server) CAs() *x509.CertPool { return s.ca.Pool() }
