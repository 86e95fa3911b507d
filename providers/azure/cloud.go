package azure

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	sdk "github.com/Azure/azure-sdk-for-go/sdk/azcore/cloud"

	"github.com/keymount/keymount/pkg/provider"
)

const (
	publicCloud = "AzurePublicCloud"
	stackCloud  = "AzureStackCloud"

	// environmentVariable names the file that describes AzureStackCloud.
	environmentVariable = "AZURE_ENVIRONMENT_FILEPATH"
	maxEnvironmentFile  = 64 << 10
)

// A cloud is an Azure on its own.
type cloud struct {
	authority string // of Entra ID, a URL
	suffix    string // of the host names of vaults
	audience  string // of tokens for vaults
	private   bool   // nobody but its owner knows the authority
}

// clouds are those that everybody knows, by their names in lower case.
var clouds = map[string]cloud{
	"azurepubliccloud":       known("https://login.microsoftonline.com/", "vault.azure.net"),
	"azurecloud":             known("https://login.microsoftonline.com/", "vault.azure.net"),
	"azureusgovernmentcloud": known("https://login.microsoftonline.us/", "vault.usgovcloudapi.net"),
	"azureusgovernment":      known("https://login.microsoftonline.us/", "vault.usgovcloudapi.net"),
	"azurechinacloud":        known("https://login.chinacloudapi.cn/", "vault.azure.cn"),
	"azuregermancloud":       known("https://login.microsoftonline.de/", "vault.microsoftazure.de"),
}

func known(authority, suffix string) cloud {
	return cloud{authority: authority, suffix: suffix, audience: "https://" + suffix}
}

// cloud returns the cloud of a name; empty is that of the flag. The file
// describes AzureStackCloud; empty is that of the flag, too.
func (s *settings) cloud(name, file string) (cloud, error) {
	name = cmp.Or(name, s.Cloud, publicCloud)
	if c, ok := clouds[strings.ToLower(name)]; ok {
		return c, nil
	}
	if !strings.EqualFold(name, stackCloud) {
		return cloud{}, fmt.Errorf("cloudName %.80q is not valid, error: there is %s, AzureUSGovernmentCloud, AzureChinaCloud, AzureGermanCloud and %s: %w",
			name, publicCloud, stackCloud, provider.ErrInvalid)
	}
	file = cmp.Or(file, s.EnvironmentFile)
	if file == "" {
		return cloud{}, fmt.Errorf("cloudName %s needs a file that describes it: set cloudEnvFileName, or %s of the provider: %w", name, environmentVariable, provider.ErrInvalid)
	}
	c, err := readCloud(file)
	if err != nil {
		return c, fmt.Errorf("cloudName %s: file %.200q in the file system of the provider: %w: %w", name, file, err, provider.ErrInvalid)
	}
	return c, nil
}

// An environment is how a file describes a cloud: what is used of the format of
// go-autorest's azure.Environment.
type environment struct {
	Authority string `json:"activeDirectoryEndpoint"`
	Suffix    string `json:"keyVaultDNSSuffix"`
	Resources struct {
		Vault string `json:"keyVault"`
	} `json:"resourceIdentifiers"`
}

var suffixForm = regexp.MustCompile(`^[a-z0-9]([-.a-z0-9]{0,200}[a-z0-9])?$`)

// readCloud reads a file that describes a cloud. The name is a class's, so that
// the error shows nothing of the file.
func readCloud(name string) (c cloud, err error) {
	text, err := readSmall(name)
	if err != nil {
		return c, err
	}
	var e environment
	if json.Unmarshal(bytes.TrimPrefix(text, []byte("\xef\xbb\xbf")), &e) != nil {
		return c, errors.New("it is no JSON object that describes an environment")
	}
	authority, err := url.Parse(e.Authority)
	switch {
	case err != nil || authority.Scheme != "https" || authority.Host == "":
		return c, errors.New("activeDirectoryEndpoint is no https URL")
	case !suffixForm.MatchString(e.Suffix):
		return c, errors.New("keyVaultDNSSuffix is no name of a domain")
	}
	audience := cmp.Or(e.Resources.Vault, "https://"+e.Suffix)
	return cloud{authority: e.Authority, suffix: e.Suffix, audience: strings.TrimSuffix(audience, "/"), private: true}, nil
}

// readSmall reads a regular file.
func readSmall(name string) ([]byte, error) {
	if !filepath.IsAbs(name) {
		return nil, errors.New("its path is not absolute")
	}
	info, err := os.Stat(name)
	switch {
	case err != nil || !info.Mode().IsRegular():
		return nil, errors.New("there is no such file")
	case info.Size() > maxEnvironmentFile:
		return nil, fmt.Errorf("it has more than %d bytes", maxEnvironmentFile)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, errors.New("it cannot be read")
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxEnvironmentFile))
	if err != nil {
		return nil, errors.New("it cannot be read")
	}
	return text, nil
}

// configuration is the cloud as the SDK has it.
func (c cloud) configuration() sdk.Configuration {
	return sdk.Configuration{ActiveDirectoryAuthorityHost: c.authority}
}

// vault returns the URL of a vault.
func (c cloud) vault(name string) string {
	return "https://" + strings.ToLower(name) + "." + c.suffix + "/"
}

// scope is what tokens for vaults are asked for.
func (c cloud) scope() string { return c.audience + "/.default" }
