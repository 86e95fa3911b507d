// Package secretobject turns files of a volume into the content of a
// Kubernetes Secret, as spec.secretObjects of a SecretProviderClass asks. It
// calls no API server. Errors name fields and objects, and never show content.
package secretobject

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

const (
	opaque       = "Opaque"            // the type of Secrets that name none
	tls          = "kubernetes.io/tls" // whose keys are taken apart
	accountToken = "kubernetes.io/service-account-token"

	// maxSize is what an API server takes: corev1.MaxSecretSize.
	maxSize = 1 << 20
)

// A Secret is what one secretObject asks for.
type Secret struct {
	Name        string
	Type        string
	Labels      map[string]string
	Annotations map[string]string
	Data        map[string]secret.Value
}

// New returns the Secret that o asks for, made of the files of a volume.
func New(o class.SecretObject, files []provider.File) (Secret, error) {
	s := Secret{
		Name:        strings.TrimSpace(o.SecretName),
		Type:        strings.TrimSpace(o.Type),
		Labels:      o.Labels,
		Annotations: o.Annotations,
		Data:        make(map[string]secret.Value, len(o.Data)),
	}
	if s.Name == "" {
		return s, errors.New("secretName is empty: name the Secret")
	}
	if s.Type == "" {
		s.Type = opaque
	}
	if s.Type == accountToken {
		return s, fmt.Errorf("secret %s: Kubernetes itself fills Secrets of type %s: choose another type", s.Name, accountToken)
	}
	if len(o.Data) == 0 {
		return s, fmt.Errorf("secret %s: data is empty: list objects and the keys that hold them", s.Name)
	}
	size, places := 0, make(map[string]int)
	for i, d := range o.Data {
		key, value, err := s.entry(d, files)
		if err != nil {
			return s, fmt.Errorf("secret %s: data[%d]: %w", s.Name, i, err)
		}
		if first, twice := places[key]; twice {
			return s, fmt.Errorf("secret %s: data[%d] and data[%d]: key %q is given twice: remove one", s.Name, first, i, key)
		}
		places[key] = i
		s.Data[key] = value
		size += value.Len()
	}
	if size > maxSize {
		return s, fmt.Errorf("secret %s: its values have %d bytes, and a Kubernetes Secret has at most %d: spread the objects over several", s.Name, size, maxSize)
	}
	return s, nil
}

// entry returns one key of the Secret and its value.
func (s Secret) entry(d class.SecretData, files []provider.File) (key string, value secret.Value, err error) {
	key, object := strings.TrimSpace(d.Key), strings.TrimSpace(d.ObjectName)
	switch {
	case key == "":
		return "", value, errors.New("key is empty: name a key of the Secret")
	case object == "":
		return "", value, fmt.Errorf("objectName of key %q is empty: name a file of the volume", key)
	}
	value, err = find(files, object)
	switch {
	case err != nil:
	case s.Type == tls:
		value, err = part(key, value)
	case s.Type == "kubernetes.io/dockerconfigjson" && key == ".dockerconfigjson", s.Type == "kubernetes.io/dockercfg" && key == ".dockercfg":
		err = isObject(value)
	}
	if err != nil {
		return "", value, fmt.Errorf("objectName %q: %w", object, err)
	}
	return key, value, nil
}

func find(files []provider.File, path string) (secret.Value, error) {
	for _, f := range files {
		if f.Path == path {
			return f.Data, nil
		}
	}
	return secret.Value{}, errors.New("the volume has no such file: objectName is the path of a file as the pod sees it")
}

// part returns what a key of a TLS Secret holds of a file.
func part(key string, file secret.Value) (secret.Value, error) {
	var text []byte
	var err error
	switch key {
	case "tls.crt", "ca.crt":
		text, err = certificates(file.Reveal(), key == "ca.crt")
	case "tls.key":
		text, err = privateKey(file.Reveal())
	default:
		return file, nil
	}
	if err != nil {
		return secret.Value{}, fmt.Errorf("%s: %w", key, err)
	}
	return secret.New(text), nil
}

// isObject refuses what an API server would: it would quote what it cannot read.
func isObject(file secret.Value) error {
	var fields map[string]json.RawMessage
	if json.Unmarshal(file.Reveal(), &fields) != nil {
		return errors.New("it is no JSON object, as the type of the Secret needs")
	}
	return nil
}
