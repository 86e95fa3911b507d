package kube

import (
	"context"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// callTimeout bounds one call to the API server that is no watch.
const callTimeout = 10 * time.Second

// A Client calls the API server. It is safe for concurrent use.
type Client struct {
	codec  runtime.ParameterCodec
	custom rest.Interface // SecretProviderClasses and their status objects
	core   rest.Interface // core/v1
	about  metadata.Interface
}

// Connect returns a Client of the API server that the kubeconfig file names;
// without a file, of the cluster in whose pod this process runs. It makes no
// call. The agent, such as "keymount-driver/v1.2.3", is how audit logs show
// its calls.
func Connect(kubeconfig, agent string) (*Client, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	config.UserAgent = agent
	// A node that starts a hundred pods at once is no storm: the API server has
	// priority and fairness of its own.
	config.QPS, config.Burst = 50, 200
	return newClient(config)
}

func newClient(config *rest.Config) (*Client, error) {
	scheme := runtime.NewScheme()
	if err := corev1.AddToScheme(scheme); err != nil {
		return nil, err
	}
	scheme.AddKnownTypes(authenticationv1.SchemeGroupVersion, &authenticationv1.TokenRequest{})
	scheme.AddKnownTypes(groupVersion,
		&SecretProviderClass{}, &SecretProviderClassList{},
		&SecretProviderClassPodStatus{}, &SecretProviderClassPodStatusList{})
	metav1.AddToGroupVersion(scheme, groupVersion)

	c := &Client{codec: runtime.NewParameterCodec(scheme)}
	transport, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	connect := func(path string, version schema.GroupVersion) (rest.Interface, error) {
		own := rest.CopyConfig(config)
		own.APIPath, own.GroupVersion = path, &version
		own.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
		return rest.RESTClientForConfigAndClient(own, transport)
	}
	if c.custom, err = connect("/apis", groupVersion); err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	if c.core, err = connect("/api", corev1.SchemeGroupVersion); err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	if c.about, err = metadata.NewForConfigAndClient(config, transport); err != nil {
		return nil, fmt.Errorf("connect to the API server: %w", err)
	}
	return c, nil
}

// classes returns the SecretProviderClasses of a namespace.
func (c *Client) classes(namespace string) *gentype.ClientWithList[*SecretProviderClass, *SecretProviderClassList] {
	return gentype.NewClientWithList("secretproviderclasses", c.custom, c.codec, namespace,
		func() *SecretProviderClass { return &SecretProviderClass{} },
		func() *SecretProviderClassList { return &SecretProviderClassList{} })
}

// statuses returns the status objects of a namespace; "" is all of them.
func (c *Client) statuses(namespace string) *gentype.ClientWithList[*SecretProviderClassPodStatus, *SecretProviderClassPodStatusList] {
	return gentype.NewClientWithList("secretproviderclasspodstatuses", c.custom, c.codec, namespace,
		func() *SecretProviderClassPodStatus { return &SecretProviderClassPodStatus{} },
		func() *SecretProviderClassPodStatusList { return &SecretProviderClassPodStatusList{} })
}

// secrets returns the Secrets of a namespace.
func (c *Client) secrets(namespace string) *gentype.Client[*corev1.Secret] {
	return gentype.NewClient("secrets", c.core, c.codec, namespace, func() *corev1.Secret { return &corev1.Secret{} })
}

// events returns the Events of a namespace.
func (c *Client) events(namespace string) *gentype.Client[*corev1.Event] {
	return gentype.NewClient("events", c.core, c.codec, namespace, func() *corev1.Event { return &corev1.Event{} })
}

// pods returns the Pods of a namespace.
func (c *Client) pods(namespace string) *gentype.Client[*corev1.Pod] {
	return gentype.NewClient("pods", c.core, c.codec, namespace, func() *corev1.Pod { return &corev1.Pod{} })
}

// makeToken makes a token of a service account.
func (c *Client) makeToken(ctx context.Context, namespace, account string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	made := &authenticationv1.TokenRequest{}
	return made, c.core.Post().Namespace(namespace).Resource("serviceaccounts").Name(account).SubResource("token").Body(request).Do(ctx).Into(made)
}

// nodes returns the Nodes.
func (c *Client) nodes() *gentype.Client[*corev1.Node] {
	return gentype.NewClient("nodes", c.core, c.codec, "", func() *corev1.Node { return &corev1.Node{} })
}

// metadata returns service accounts of a namespace, or the nodes, but only what
// is above spec and status of each: a node changes often there.
func (c *Client) metadata(of subject) metadata.ResourceInterface {
	if of.namespace == "" {
		return c.about.Resource(corev1.SchemeGroupVersion.WithResource("nodes"))
	}
	return c.about.Resource(corev1.SchemeGroupVersion.WithResource("serviceaccounts")).Namespace(of.namespace)
}
