package aws

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// Where the agent of EKS Pod Identity listens on each node.
const (
	agentIPv4 = "http://169.254.170.23/v1/credentials"
	agentIPv6 = "http://[fd00:ec2::23]/v1/credentials"
	maxAgent  = 64 << 10 // bytes of an answer
)

// agentAddresses returns where to ask, in order. What is neither ipv4 nor ipv6
// is both, as it always was.
func agentAddresses(preferred string) []string {
	switch strings.ToLower(preferred) {
	case "ipv4":
		return []string{agentIPv4}
	case "ipv6":
		return []string{agentIPv6}
	default:
		return []string{agentIPv4, agentIPv6}
	}
}

// ask gives the agent the token of the service account. Where nobody answers
// at one address, the next is tried.
func (i identity) ask(ctx context.Context, client *http.Client) (aws.Credentials, error) {
	var errs []error
	for _, address := range i.addresses {
		creds, err := i.askAt(ctx, client, address)
		var unreachable *url.Error
		if err == nil || !errors.As(err, &unreachable) {
			return creds, err
		}
		errs = append(errs, err)
	}
	return aws.Credentials{}, joined(errs)
}

func (i identity) askAt(ctx context.Context, client *http.Client, address string) (aws.Credentials, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return aws.Credentials{}, err
	}
	req.Header.Set("Authorization", string(i.token.Reveal()))
	req.Header.Set("Accept", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return aws.Credentials{}, fmt.Errorf("ask the EKS Pod Identity agent of the node (is the add-on eks-pod-identity-agent installed?): %w: %w", err, provider.ErrUnavailable)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAgent))
	switch {
	case resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode >= http.StatusInternalServerError:
		return aws.Credentials{}, i.refusal(resp.Status, body, provider.ErrUnavailable)
	case resp.StatusCode != http.StatusOK:
		return aws.Credentials{}, i.refusal(resp.Status, body, provider.ErrDenied)
	}
	var granted struct {
		AccessKeyID     string `json:"AccessKeyId"`
		SecretAccessKey string
		Token           string
		Expiration      time.Time
	}
	if err != nil || json.Unmarshal(body, &granted) != nil || granted.AccessKeyID == "" || granted.SecretAccessKey == "" {
		return aws.Credentials{}, fmt.Errorf("the EKS Pod Identity agent at %s answered without credentials: %w", address, provider.ErrUnavailable)
	}
	return aws.Credentials{
		AccessKeyID: granted.AccessKeyID, SecretAccessKey: granted.SecretAccessKey, SessionToken: granted.Token,
		CanExpire: !granted.Expiration.IsZero(), Expires: granted.Expiration,
	}, nil
}

// refusal tells what the agent says, without the token, should it say that.
func (i identity) refusal(status string, body []byte, reason error) error {
	said := string(body)
	if i.token.Len() > 0 {
		said = strings.ReplaceAll(said, string(i.token.Reveal()), secret.Mask)
	}
	return fmt.Errorf("the EKS Pod Identity agent answered %s: %s: does the service account have an association? %w", status, printable(said), reason)
}
