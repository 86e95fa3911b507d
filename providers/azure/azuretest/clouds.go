package azuretest

import (
	"net"
	"slices"
	"strings"
)

// A Cloud is an Azure on its own: where its Entra ID is, and how the names of
// its vaults end.
type Cloud struct {
	Name        string   // like AzureStackCloud
	Authority   string   // like login.microsoftonline.com
	Aliases     []string // other names of the authority
	VaultSuffix string   // like vault.azure.net
}

// realClouds returns those that Entra ID knows everywhere.
func realClouds() []Cloud {
	return []Cloud{
		{"AzurePublicCloud", "login.microsoftonline.com", []string{"login.windows.net", "login.microsoft.com", "sts.windows.net"}, "vault.azure.net"},
		{"AzureUSGovernmentCloud", "login.microsoftonline.us", []string{"login.usgovcloudapi.net"}, "vault.usgovcloudapi.net"},
		{"AzureChinaCloud", "login.chinacloudapi.cn", []string{"login.partner.microsoftonline.cn"}, "vault.azure.cn"},
	}
}

// names returns those of the authority.
func (c Cloud) names() []string { return append([]string{c.Authority}, c.Aliases...) }

// resource returns the audience of tokens for vaults.
func (c Cloud) resource() string { return "https://" + c.VaultSuffix }

// cloudOf returns the cloud whose authority has the name.
func (s *Server) cloudOf(host string) (Cloud, bool) {
	at := slices.IndexFunc(s.clouds, func(c Cloud) bool { return slices.Contains(c.names(), host) })
	if at < 0 {
		return Cloud{}, false
	}
	return s.clouds[at], true
}

// vaultOf returns the name of the vault, and its cloud, that a host name is
// for. Whether there is such a vault is another question.
func (s *Server) vaultOf(host string) (name string, cloud Cloud, ok bool) {
	for _, c := range s.clouds {
		if name, ok := strings.CutSuffix(host, "."+c.VaultSuffix); ok {
			return name, c, true
		}
	}
	return "", Cloud{}, false
}

// hostname returns a host without its port, as names are compared.
func hostname(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(host)
}
