// Package aws is a provider for AWS Secrets Manager and SSM Parameter Store.
// Classes of AWS's own provider work as they are.
//
// # Parameters
//
// Keys are case-sensitive, and what is not listed is ignored.
//
//	objects               required; see below
//	region                where to read. Default: --aws-region, AWS_REGION, the node's label topology.kubernetes.io/region
//	failoverRegion        where to read as well, in case region is out of order
//	pathTranslation       what stands for / in file names: one character (default: _), or False to keep folders
//	usePodIdentity        true: credentials of EKS Pod Identity instead of those of a web identity (IRSA)
//	preferredAddressType  ipv4 or ipv6: the one address of the Pod Identity agent. Default: IPv4, then IPv6
//	roleArn               role of the web identity. Default: the annotation eks.amazonaws.com/role-arn of the service account
//	audience              of the service account token. Default: the annotation eks.amazonaws.com/audience,
//	                      else sts.amazonaws.com; with usePodIdentity pods.eks.amazonaws.com
//	assumeRoleArn         another role to assume after that
//	externalId            what the owner of that role wants to hear
//	useNodeCredentials    true: the provider's own credentials, where --aws-node-credentials allows it
//
// The parameter objects is a YAML list of maps; fields match without regard to
// case, and unknown ones are ignored:
//
//	objectName          name or ARN. Required
//	objectType          secretsmanager or ssmparameter; an ARN says it itself
//	objectAlias         the file in the volume. Default: objectName, its slashes translated
//	objectVersion       VersionId of a secret, version of a parameter. Default: the current one
//	objectVersionLabel  staging label of a secret, label of a parameter
//	filePermission      octal, quoted or not. Default: what the driver asks for
//	encoding            utf-8 (default), base64 or hex: how what is stored stands for the bytes
//	optional            true: leave the file out of the volume while the object does not exist
//	jmesPath            list of parts of the secret's JSON, each another file: path (an expression) and
//	                    objectAlias are required; filePermission, encoding and optional as above
//	failoverObject      objectName, objectVersion and objectVersionLabel in failoverRegion, if they differ there
//
// What a jmesPath finds is written as it is if it is text, and else as compact
// JSON. Two files of one name are an error.
//
// # Authentication
//
// A pod reads in the name of its service account: its token of the audience is
// exchanged at STS for credentials of the role, or at the agent of EKS Pod
// Identity on the node. AWS's logs show it as the session
// <namespace>-<service account>. Credentials are kept until shortly before
// their end, for pods of the same service account, role and audience; every
// request must bring a token anew. Annotations and labels are provider.Facts:
// a class that names roleArn and region needs none.
//
// # Two regions
//
// Both regions are asked at each fetch, at once. The value of the first counts.
// An outage of one of them, throttling included, is tolerated; any other error
// of either fails the fetch, so that a failover that would not work comes to
// light before it is needed.
//
// # Versions
//
// An object's ID is its file. The version of a secret is its VersionId, that of
// a parameter its number and when it was written. A volume polls with
// BatchGetSecretValue for 20 secrets, or DescribeSecret for a single one, and
// with GetParameters for 10 parameters; what is pinned to a version costs
// nothing. An identity that may not make one of the cheaper calls reads
// secrets one by one, which is noted for an hour.
//
// # Errors
//
// Not found: the object, its version or label does not exist, or a jmesPath
// finds nothing. Denied: no permission for the object or its KMS key, or no
// credentials. Invalid: parameters, and other answers of 400 to 499.
// Unavailable: throttling, 5xx and no answer, after the SDK's adaptive retries.
// The code, message and request ID of the service are part of the error, and
// so are the region, the operation and the role.
package aws

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/wallet"
)

// A Provider reads secrets of AWS. It is safe for concurrent use.
type Provider struct {
	settings settings
	clients  clients
	wallet   wallet.Wallet[aws.Credentials]
	refused  memory // which cheaper calls are refused to whom
}

// New returns a Provider. It makes no call; its life ends with Close.
func New(opts *Options) (*Provider, error) {
	s, err := opts.settings()
	if err != nil {
		return nil, err
	}
	return &Provider{settings: s, clients: clients{sdk: s.sdk, pause: maxPause}}, nil
}

// Fetch implements provider.Provider.
func (p *Provider) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	q, err := p.parse(req)
	if err != nil {
		return nil, err
	}
	f := &fetch{Provider: p, query: q, held: req.Held.Versions}
	for i, region := range q.regions {
		f.places = append(f.places, &place{
			fetch: f, regional: p.clients.in(region), region: region, number: i, results: make([]result, len(q.reads)),
		})
	}
	return f.run(ctx)
}

// Close waits for calls that nobody waits for any more, and ends idle
// connections. No call may be in progress or follow.
func (p *Provider) Close() error {
	p.wallet.Close()
	p.settings.http.CloseIdleConnections()
	p.settings.agent.CloseIdleConnections()
	return nil
}
