package plugin

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// The attributes that are not parameters. Only the driver may set them.
const (
	attrPodName        = "csi.storage.k8s.io/pod.name"
	attrPodNamespace   = "csi.storage.k8s.io/pod.namespace"
	attrPodUID         = "csi.storage.k8s.io/pod.uid"
	attrServiceAccount = "csi.storage.k8s.io/serviceAccount.name"
	attrTokens         = "csi.storage.k8s.io/serviceAccount.tokens"

	attrClass = "secretProviderClass" // names the class; left among the parameters
)

// A wireToken is one entry of attrTokens, as kubelet writes it.
type wireToken struct {
	Token      string    `json:"token"`
	Expiration time.Time `json:"expirationTimestamp,omitzero"`
}

// encodeAttributes writes the request's parameters, pod and tokens.
// Parameters that look like a pod or a token are replaced.
func encodeAttributes(req *provider.Request) (string, error) {
	attributes := maps.Clone(req.Parameters)
	if attributes == nil {
		attributes = make(map[string]string)
	}
	attributes[attrPodName] = req.Pod.Name
	attributes[attrPodNamespace] = req.Pod.Namespace
	attributes[attrPodUID] = req.Pod.UID
	attributes[attrServiceAccount] = req.Pod.ServiceAccount
	delete(attributes, attrTokens)
	if len(req.Tokens) > 0 {
		tokens := make(map[string]wireToken, len(req.Tokens))
		for audience, token := range req.Tokens {
			if !utf8.Valid(token.Value.Reveal()) {
				return "", fmt.Errorf("the token for audience %q is not text: %w", audience, provider.ErrInvalid)
			}
			tokens[audience] = wireToken{string(token.Value.Reveal()), token.Expires.UTC().Truncate(time.Second)}
		}
		text, err := json.Marshal(tokens)
		if err != nil {
			return "", fmt.Errorf("the service account tokens cannot be encoded: %w", provider.ErrInvalid)
		}
		attributes[attrTokens] = string(text)
	}
	text, err := json.Marshal(attributes)
	if err != nil {
		return "", fmt.Errorf("the attributes cannot be encoded: %w", provider.ErrInvalid)
	}
	return string(text), nil
}

// decodeAttributes fills the request's parameters, pod, tokens and class.
// Errors name keys, never values.
func decodeAttributes(text string, req *provider.Request) error {
	attributes, err := decodeStrings("attributes", text)
	if err != nil {
		return err
	}
	if attributes == nil {
		return fmt.Errorf("attributes: want a JSON object: %w", provider.ErrInvalid)
	}
	take := func(key string) string {
		value := attributes[key]
		delete(attributes, key)
		return value
	}
	req.Pod = provider.Pod{
		Namespace:      take(attrPodNamespace),
		Name:           take(attrPodName),
		UID:            take(attrPodUID),
		ServiceAccount: take(attrServiceAccount),
	}
	req.Tokens, err = decodeTokens(take(attrTokens))
	if err != nil {
		return err
	}
	if name := attributes[attrClass]; req.Class == "" && name != "" {
		req.Class = req.Pod.Namespace + "/" + name // the upstream driver does not say it otherwise
	}
	req.Parameters = attributes
	return nil
}

// decodeTokens reads the value of attrTokens; empty means that there are none.
func decodeTokens(text string) (provider.Tokens, error) {
	if text == "" {
		return nil, nil
	}
	var decoded map[string]wireToken
	if err := json.Unmarshal([]byte(text), &decoded); err != nil { // err quotes its input
		return nil, fmt.Errorf("attribute %s: want a JSON object of audiences, each with token and expirationTimestamp: %w", attrTokens, provider.ErrInvalid)
	}
	if len(decoded) == 0 {
		return nil, nil
	}
	tokens := make(provider.Tokens, len(decoded))
	for audience, token := range decoded {
		tokens[audience] = provider.Token{Value: secret.New([]byte(token.Token)), Expires: token.Expiration}
	}
	return tokens, nil
}

// encodeSecrets writes credentials as upstream does: no credentials are null.
func encodeSecrets(credentials map[string]secret.Value) (string, error) {
	if len(credentials) == 0 {
		return "null", nil
	}
	plain := make(map[string]string, len(credentials))
	for key, value := range credentials {
		if !utf8.Valid(value.Reveal()) {
			return "", fmt.Errorf("the credential %q is not text, which the provider protocol cannot carry: %w", key, provider.ErrInvalid)
		}
		plain[key] = string(value.Reveal())
	}
	text, err := json.Marshal(plain)
	if err != nil {
		return "", fmt.Errorf("the credentials cannot be encoded: %w", provider.ErrInvalid)
	}
	return string(text), nil
}

// decodeSecrets reads credentials; the empty string means none, as null does.
func decodeSecrets(text string) (map[string]secret.Value, error) {
	if text == "" {
		return nil, nil
	}
	plain, err := decodeStrings("secrets", text)
	if err != nil || len(plain) == 0 {
		return nil, err
	}
	credentials := make(map[string]secret.Value, len(plain))
	for key, value := range plain {
		credentials[key] = secret.New([]byte(value))
	}
	return credentials, nil
}

// decodeStrings reads a JSON object of strings; null is a nil map. What is
// said of a bad one is the field and the key, because decoders quote values.
func decodeStrings(field, text string) (map[string]string, error) {
	var raw map[string]any
	if err := json.Unmarshal([]byte(text), &raw); err != nil {
		return nil, fmt.Errorf("%s: want a JSON object: %w", field, provider.ErrInvalid)
	}
	if raw == nil {
		return nil, nil
	}
	decoded := make(map[string]string, len(raw))
	for _, key := range slices.Sorted(maps.Keys(raw)) {
		value, ok := raw[key].(string)
		if !ok {
			return nil, fmt.Errorf("%s: the value of %.80q is not a string: %w", field, key, provider.ErrInvalid)
		}
		decoded[key] = value
	}
	return decoded, nil
}
