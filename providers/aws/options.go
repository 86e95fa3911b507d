package aws

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/spf13/pflag"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/trace"
)

const (
	attemptTimeout = 10 * time.Second // of one request to a service
	agentTimeout   = 2 * time.Second  // of one to the Pod Identity agent, which is on the node
	maxPause       = 5 * time.Second  // between two attempts, of which the SDK makes three
)

// Options are what a class need not say. Endpoints, proxies, certificate
// authorities, FIPS, dual-stack and the number of attempts are what the SDK
// makes of the environment (AWS_ENDPOINT_URL, HTTPS_PROXY, AWS_CA_BUNDLE and
// so on) and of its configuration file. Nil is all defaults.
type Options struct {
	// Region of classes that name none. Default: what the SDK finds
	// (AWS_REGION), else the label topology.kubernetes.io/region of the node.
	Region string
	// NodeCredentials lets classes that ask for it (useNodeCredentials) read
	// with what the SDK's default chain finds for this process, which is the
	// same for all pods. Default: no class may.
	NodeCredentials bool

	dial  dialer         // nil: the network
	roots *x509.CertPool // nil: those of the system
}

type dialer func(ctx context.Context, network, address string) (net.Conn, error)

// AddFlags adds the flags that set the options; what is set already is their
// default.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Region, "aws-region", o.Region, "region of aws classes that name none; empty: AWS_REGION, else the node's label "+regionLabel)
	fs.BoolVar(&o.NodeCredentials, "aws-node-credentials", o.NodeCredentials,
		"let aws classes with the parameter useNodeCredentials read with the provider's own credentials, which are the same for all pods")
}

// Files returns the files and folders that the SDK reads with these options,
// given the variables of the environment.
func (o *Options) Files(environment func(string) string) []string {
	if !o.NodeCredentials || environment == nil {
		return nil
	}
	var files []string
	if home := environment("HOME"); home != "" {
		files = append(files, filepath.Join(home, ".aws"))
	}
	for _, name := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"} {
		if file := environment(name); file != "" {
			files = append(files, file)
		}
	}
	return files
}

// settings are options with what the SDK finds in the environment.
type settings struct {
	sdk    aws.Config              // without region and credentials
	http   *http.Client            // of the SDK
	node   aws.CredentialsProvider // nil unless classes may ask for it
	agent  *http.Client            // for the Pod Identity agent
	region string                  // of classes that name none; empty: that of the node
}

// settings makes no request. Nobody is given the credentials of the
// environment by mistake: they are not even looked for unless they are allowed.
func (o *Options) settings() (settings, error) {
	if o == nil {
		o = &Options{}
	}
	load := []func(*config.LoadOptions) error{config.WithHTTPClient(awshttp.NewBuildableClient())} // which takes AWS_CA_BUNDLE
	if !o.NodeCredentials {
		load = append(load, config.WithCredentialsProvider(aws.AnonymousCredentials{}))
	}
	sdk, err := config.LoadDefaultConfig(context.Background(), load...)
	if err != nil {
		return settings{}, fmt.Errorf("read the AWS configuration of the environment: %w: %w", err, provider.ErrInvalid)
	}
	client, ok := sdk.HTTPClient.(*awshttp.BuildableClient)
	if !ok {
		return settings{}, fmt.Errorf("the AWS SDK made a %T of its HTTP client: %w", sdk.HTTPClient, provider.ErrInvalid)
	}
	s := settings{
		http:   o.client(client.GetTransport(), attemptTimeout),
		agent:  o.client(&http.Transport{}, agentTimeout),
		region: cmp.Or(o.Region, sdk.Region),
	}
	if o.NodeCredentials {
		s.node = sdk.Credentials
	}
	sdk.HTTPClient, sdk.Credentials, sdk.Region = s.http, aws.AnonymousCredentials{}, ""
	sdk.AppID = cmp.Or(sdk.AppID, "keymount") // as AWS's logs show the client
	s.sdk = sdk
	return s, nil
}

// client returns an HTTP client that follows no redirection: no service sends
// one, and who does wants a token or a signature.
func (o *Options) client(transport *http.Transport, timeout time.Duration) *http.Client {
	if o.dial != nil {
		transport.DialContext = o.dial
	}
	if o.roots != nil {
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: o.roots}
	}
	return &http.Client{
		Transport:     trace.Transport(transport),
		Timeout:       timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
