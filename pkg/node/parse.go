package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
	"github.com/keymount/keymount/pkg/volume"
)

// The volume attributes that a pod and kubelet set (Kubernetes: CSIDriver,
// fields podInfoOnMount and tokenRequests).
const (
	attrClass          = "secretProviderClass"
	attrEphemeral      = "csi.storage.k8s.io/ephemeral"
	attrPodNamespace   = "csi.storage.k8s.io/pod.namespace"
	attrPodName        = "csi.storage.k8s.io/pod.name"
	attrPodUID         = "csi.storage.k8s.io/pod.uid"
	attrServiceAccount = "csi.storage.k8s.io/serviceAccount.name"
	attrTokens         = "csi.storage.k8s.io/serviceAccount.tokens"
)

// maxIDLength is far above what kubelet and the CSI specification (128 bytes)
// use.
const maxIDLength = 1024

// maxNameLength is that of names of Kubernetes' objects.
const maxNameLength = 253

// parsePublish checks a request wholly and takes it apart. Tokens and
// credentials leave the attributes for secret values here.
func parsePublish(req *csi.NodePublishVolumeRequest) (volume.Volume, error) {
	attributes := req.GetVolumeContext()
	v := volume.Volume{
		ID:     volume.ID(req.GetVolumeId()),
		Target: filepath.Clean(req.GetTargetPath()),
		Class:  class.Name{Namespace: attributes[attrPodNamespace], Name: attributes[attrClass]},
		Pod: provider.Pod{
			Namespace: attributes[attrPodNamespace], Name: attributes[attrPodName],
			UID: attributes[attrPodUID], ServiceAccount: attributes[attrServiceAccount],
		},
	}
	if err := checkVolume(req.GetVolumeId(), "target path", req.GetTargetPath()); err != nil {
		return v, err
	}
	mount := req.GetVolumeCapability().GetMount()
	switch {
	case req.GetVolumeCapability() == nil:
		return v, errors.New("volume capability is missing")
	case mount == nil:
		return v, errors.New("the volume capability must be a mount: secrets are files, not a block device")
	case attributes[attrEphemeral] == "true" && !req.GetReadonly():
		return v, errors.New("the pod must mount the volume read-only: set readOnly: true in its csi volume source")
	case v.Class.Name == "":
		return v, fmt.Errorf("volume attribute %s is missing: name a SecretProviderClass of the pod's namespace", attrClass)
	case len(v.Class.Name) > maxNameLength:
		return v, fmt.Errorf("volume attribute %s, %.80q..., is longer than a name can be, %d bytes", attrClass, v.Class.Name, maxNameLength)
	}
	for _, attribute := range []string{attrPodNamespace, attrPodName, attrPodUID} {
		if attributes[attribute] == "" {
			return v, fmt.Errorf("volume attribute %s is missing: the CSIDriver object must have podInfoOnMount: true", attribute)
		}
	}
	var err error
	if v.Group, err = parseGroup(mount.GetVolumeMountGroup()); err != nil {
		return v, err
	}
	if v.Tokens, err = parseTokens(req); err != nil {
		return v, err
	}
	v.Credentials = parseCredentials(req.GetSecrets())
	v.Attributes = maps.Clone(attributes)
	delete(v.Attributes, attrTokens)
	return v, nil
}

// checkVolume checks the ID and the path that every call about a volume has.
func checkVolume(id, what, path string) error {
	switch {
	case id == "":
		return errors.New("volume ID is missing")
	case len(id) > maxIDLength:
		return fmt.Errorf("volume ID is longer than %d bytes", maxIDLength)
	case path == "":
		return fmt.Errorf("%s is missing", what)
	case filepath.Clean(path) == "/":
		return fmt.Errorf("%s is the root of the file system", what)
	case !filepath.IsAbs(path) || strings.ContainsRune(path, 0) || slices.Contains(strings.Split(path, "/"), ".."):
		return fmt.Errorf("%s %q must be absolute and without %q", what, path, "..")
	}
	return nil
}

func parseGroup(text string) (*int64, error) {
	if text == "" {
		return nil, nil
	}
	group, err := strconv.ParseInt(text, 10, 32)
	if err != nil || group < 0 {
		return nil, fmt.Errorf("volume mount group %q is not a group ID", text)
	}
	return &group, nil
}

// parseTokens reads the service account tokens from where this version of
// kubelet puts them: with the secrets (CSIDriver.serviceAccountTokenInSecrets)
// or with the attributes. Errors never quote them.
func parseTokens(req *csi.NodePublishVolumeRequest) (provider.Tokens, error) {
	text := req.GetSecrets()[attrTokens]
	if text == "" {
		text = req.GetVolumeContext()[attrTokens]
	}
	if text == "" {
		return nil, nil
	}
	var wire map[string]struct {
		Token               string `json:"token"`
		ExpirationTimestamp string `json:"expirationTimestamp"`
	}
	if json.Unmarshal([]byte(text), &wire) != nil {
		return nil, fmt.Errorf("volume attribute %s is not a JSON object of tokens by audience", attrTokens)
	}
	tokens := make(provider.Tokens, len(wire))
	for audience, t := range wire {
		var expires time.Time
		if t.ExpirationTimestamp != "" {
			var err error
			if expires, err = time.Parse(time.RFC3339, t.ExpirationTimestamp); err != nil {
				return nil, fmt.Errorf("volume attribute %s: the token for audience %q has an expirationTimestamp that is not RFC 3339", attrTokens, audience)
			}
		}
		tokens[audience] = provider.Token{Value: secret.New([]byte(t.Token)), Expires: expires}
	}
	return tokens, nil
}

// parseCredentials wraps the Secret that nodePublishSecretRef names.
func parseCredentials(secrets map[string]string) map[string]secret.Value {
	if len(secrets) == 0 {
		return nil
	}
	credentials := make(map[string]secret.Value, len(secrets))
	for key, value := range secrets {
		if key != attrTokens {
			credentials[key] = secret.New([]byte(value))
		}
	}
	return credentials
}
