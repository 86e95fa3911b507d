package aws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// A kind is a way to get credentials.
type kind string

const (
	webIdentity     kind = "web identity" // the pod's service account token, exchanged at STS (IRSA)
	podIdentity     kind = "pod identity" // the same, exchanged at the agent of the node (EKS Pod Identity)
	nodeCredentials kind = "node"         // those of this process
)

const (
	webIdentityAudience = "sts.amazonaws.com"
	podIdentityAudience = "pods.eks.amazonaws.com"
)

// What a cluster says of a service account.
var (
	roleAnnotation     = provider.ServiceAccountAnnotation("eks.amazonaws.com/role-arn")
	audienceAnnotation = provider.ServiceAccountAnnotation("eks.amazonaws.com/audience")
)

// An identity is who reads, and how that is proved.
type identity struct {
	kind      kind
	role      string // of webIdentity
	audience  string // of the token
	addresses []string
	assume    string // a role to assume after that; empty: none
	external  string // what the role's owner wants to hear with that
	account   string // namespace/name of the service account
	session   string // how AWS's own logs name it
	token     secret.Value
	// key is equal for identities that may share credentials. The proof is part
	// of every request nevertheless: that others of the identity had
	// credentials before is not enough.
	key string
}

// identity returns who the class says that reads, as far as that does not need
// facts.
func (p parameters) identity(req *provider.Request) (identity, error) {
	i := identity{
		kind:    webIdentity,
		role:    p.values["roleArn"],
		assume:  p.values["assumeRoleArn"],
		account: req.Pod.Namespace + "/" + req.Pod.ServiceAccount,
		session: sessionName(req.Pod.Namespace, req.Pod.ServiceAccount),
	}
	i.audience, i.external = p.values["audience"], p.values["externalId"]
	pods, err := p.flag("usePodIdentity")
	if err != nil {
		return i, err
	}
	node, err := p.flag("useNodeCredentials")
	switch {
	case err != nil:
		return i, err
	case pods && node:
		return i, fmt.Errorf("usePodIdentity and useNodeCredentials exclude each other: %w", provider.ErrInvalid)
	case (pods || node) && i.role != "":
		return i, fmt.Errorf("roleArn is for web identities: use assumeRoleArn to assume a role after usePodIdentity or useNodeCredentials: %w", provider.ErrInvalid)
	case i.external != "" && i.assume == "":
		return i, fmt.Errorf("externalId is for the role that assumeRoleArn names: %w", provider.ErrInvalid)
	case node && p.settings.node == nil:
		return i, fmt.Errorf("useNodeCredentials is not allowed here: the provider would have to run with --aws-node-credentials: %w", provider.ErrDenied)
	case node:
		i.kind = nodeCredentials
	case pods:
		i.kind, i.audience = podIdentity, cmp.Or(i.audience, podIdentityAudience)
		i.addresses = agentAddresses(p.values["preferredAddressType"])
	}
	for name, role := range map[string]string{"roleArn": i.role, "assumeRoleArn": i.assume} {
		if role != "" && !isRole(role) {
			return i, fmt.Errorf("%s is no ARN of an IAM role: %.200s: %w", name, role, provider.ErrInvalid)
		}
	}
	return i, nil
}

// complete fills in what the facts of the request say, and the token.
func (i *identity) complete(req *provider.Request) error {
	if i.kind == webIdentity {
		if i.role == "" {
			i.role = req.Facts[roleAnnotation]
			i.audience = cmp.Or(i.audience, req.Facts[audienceAnnotation])
		}
		i.audience = cmp.Or(i.audience, webIdentityAudience)
		switch {
		case i.role == "":
			// A text that people search for.
			return fmt.Errorf("An IAM role must be associated with service account %s (namespace: %s): "+
				"annotate it with eks.amazonaws.com/role-arn, or set the parameter roleArn: %w", req.Pod.ServiceAccount, req.Pod.Namespace, provider.ErrInvalid)
		case !isRole(i.role):
			return fmt.Errorf("the annotation eks.amazonaws.com/role-arn of service account %s is no ARN of an IAM role: %.200s: %w", i.account, i.role, provider.ErrInvalid)
		}
	}
	if i.kind != nodeCredentials {
		token, err := req.Tokens.For(i.audience, time.Now())
		if err != nil {
			return err
		}
		i.token = token.Value
	}
	i.key = fmt.Sprintf("%q", []string{string(i.kind), i.role, i.audience, i.assume, i.external, i.account})
	return nil
}

// isRole reports whether a text is the ARN of an IAM role.
func isRole(text string) bool {
	parsed, err := arn.Parse(text)
	return err == nil && parsed.Service == "iam" && strings.HasPrefix(parsed.Resource, "role/")
}

// sessionName is how AWS's logs show the service account: at most 64
// characters of those that it allows.
func sessionName(namespace, account string) string {
	name := []byte(namespace + "-" + account)
	for i, c := range name {
		if (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && !strings.ContainsRune("_+=,.@-", rune(c)) {
			name[i] = '-'
		}
	}
	return string(name[:min(len(name), 64)])
}

// String says who reads, for messages.
func (i identity) String() string {
	who := "service account " + i.account
	switch i.kind {
	case webIdentity:
		who += " with role " + i.role
	case podIdentity:
		who += " by EKS Pod Identity"
	case nodeCredentials:
		who = "the provider's own credentials"
	}
	if i.assume != "" {
		who += ", then role " + i.assume
	}
	return who
}

// An identityError says that somebody has no credentials, whatever they were for.
type identityError struct {
	who identity
	err error
}

func (e *identityError) Error() string {
	return fmt.Sprintf("no AWS credentials for %v: %v", e.who, e.err)
}

func (e *identityError) Unwrap() error { return e.err }

// obtain makes the calls that give the identity credentials. Those that do not
// end, of the environment, may be replaced there.
func (f *fetch) obtain(ctx context.Context) (aws.Credentials, time.Time, error) {
	creds, err := f.prove(ctx)
	if err == nil && f.identity.assume != "" {
		with := creds
		creds, err = f.anywhere(ctx, func(ctx context.Context, client *sts.Client) (aws.Credentials, error) {
			return f.identity.chain(ctx, client, with)
		})
	}
	if err != nil {
		return aws.Credentials{}, time.Time{}, &identityError{f.identity, err}
	}
	return creds, creds.Expires, nil
}

// prove gets the credentials that the identity's kind stands for.
func (f *fetch) prove(ctx context.Context) (aws.Credentials, error) {
	switch f.identity.kind {
	case podIdentity:
		return f.identity.ask(ctx, f.settings.agent)
	case nodeCredentials:
		creds, err := f.settings.node.Retrieve(ctx)
		if err != nil {
			return creds, fmt.Errorf("the default chain of the AWS SDK finds none: %w", explain(err))
		}
		return creds, nil
	default:
		return f.anywhere(ctx, f.identity.exchange)
	}
}

// anywhere asks STS. What one region cannot give, because it is out of order,
// the next one is asked for: credentials are of use in all.
func (f *fetch) anywhere(ctx context.Context, call func(context.Context, *sts.Client) (aws.Credentials, error)) (aws.Credentials, error) {
	var errs []error
	for _, region := range f.regions {
		attempt, cancel := f.bounded(ctx)
		creds, err := call(attempt, f.clients.in(region).sts)
		cancel()
		if err == nil {
			return creds, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", region, err))
		if !errors.Is(err, provider.ErrUnavailable) {
			break
		}
	}
	return aws.Credentials{}, joined(errs)
}

// exchange gives STS the token of the service account.
func (i identity) exchange(ctx context.Context, client *sts.Client) (aws.Credentials, error) {
	out, err := client.AssumeRoleWithWebIdentity(ctx, &sts.AssumeRoleWithWebIdentityInput{
		RoleArn:          &i.role,
		RoleSessionName:  &i.session,
		WebIdentityToken: aws.String(string(i.token.Reveal())),
	})
	if err != nil {
		subject := "system:serviceaccount:" + strings.ReplaceAll(i.account, "/", ":")
		return aws.Credentials{}, fmt.Errorf("AssumeRoleWithWebIdentity of role %s: %w (the role must trust %s with audience %s)", i.role, explain(err), subject, i.audience)
	}
	return credentialsOf(out.Credentials)
}

// chain assumes another role.
func (i identity) chain(ctx context.Context, client *sts.Client, with aws.Credentials) (aws.Credentials, error) {
	in := &sts.AssumeRoleInput{RoleArn: &i.assume, RoleSessionName: &i.session}
	if i.external != "" {
		in.ExternalId = &i.external
	}
	out, err := client.AssumeRole(ctx, in, func(o *sts.Options) { o.Credentials = static(with) })
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("AssumeRole of role %s: %w", i.assume, explain(err))
	}
	return credentialsOf(out.Credentials)
}

func credentialsOf(c *types.Credentials) (aws.Credentials, error) {
	if c == nil || c.AccessKeyId == nil || c.SecretAccessKey == nil || c.Expiration == nil {
		return aws.Credentials{}, fmt.Errorf("STS answered without credentials: %w", provider.ErrUnavailable)
	}
	return aws.Credentials{
		AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: aws.ToString(c.SessionToken),
		CanExpire: true, Expires: *c.Expiration,
	}, nil
}

// static returns the provider of credentials that are at hand.
func static(c aws.Credentials) aws.CredentialsProvider {
	return aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return c, nil })
}
