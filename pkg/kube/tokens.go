package kube

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// tokenLife is how long a token is asked to live: longer than any fetch, and
// the API server allows no less than ten minutes.
const tokenLife = 15 * time.Minute

// mint asks for a token of the pod's service account that ends with the pod.
// It is said to expire after 80 % of its life, so that one that is kept is
// renewed in time. The call is made once: who fetches tries again, and backs
// off.
func (c *Client) mint(ctx context.Context, pod provider.Pod, audience string) (provider.Token, error) {
	ctx, cancel := context.WithTimeout(quiet(ctx), callTimeout)
	defer cancel()
	life := int64(tokenLife / time.Second)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &life,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: types.UID(pod.UID)},
	}}
	if audience != "" { // else the API server's own
		request.Spec.Audiences = []string{audience}
	}
	asked := time.Now()
	made, err := c.makeToken(ctx, pod.Namespace, pod.ServiceAccount, request)
	if err == nil && (made.Status.Token == "" || made.Spec.ExpirationSeconds == nil) {
		err = errors.New("no token")
	}
	if err != nil {
		return provider.Token{}, fmt.Errorf("make a token of audience %.200q for service account %s/%s and pod %s: %w",
			audience, pod.Namespace, pod.ServiceAccount, pod.Name, notMinted(ctx, err))
	}
	life = *made.Spec.ExpirationSeconds // by the node's clock, which need not be the API server's
	return provider.Token{
		Value:   secret.New([]byte(made.Status.Token)),
		Expires: asked.Add(time.Duration(life) * time.Second * 8 / 10),
	}, nil
}

// notMinted says why there is no token, and wraps a sentinel of package
// provider. Of an answer that cannot be decoded nothing is told, because it may
// hold the token.
func notMinted(ctx context.Context, err error) error {
	var answer apierrors.APIStatus
	var network *url.Error
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("ask the API server: %w: %w", ctx.Err(), provider.ErrUnavailable)
	case apierrors.IsNotFound(err), apierrors.IsConflict(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return fmt.Errorf("the pod or its service account has gone: %w: %w", err, provider.ErrNotFound)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("the driver may not create serviceaccounts/token, which mintTokens.enabled of the chart grants: %w: %w", err, provider.ErrDenied)
	case errors.As(err, &answer), errors.As(err, &network):
		return fmt.Errorf("ask the API server: %w: %w", err, provider.ErrUnavailable)
	default:
		return fmt.Errorf("the API server's answer cannot be read: %w", provider.ErrUnavailable)
	}
}
