package secretobject

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// FuzzNew gives arbitrary content and an arbitrary class: either there is a
// Secret that an API server takes, or an error without content.
func FuzzNew(f *testing.F) {
	const canary = "canary-5b7e"
	for _, kind := range []string{"", "Opaque", "kubernetes.io/tls", "kubernetes.io/dockerconfigjson", "kubernetes.io/dockercfg", "kubernetes.io/service-account-token"} {
		f.Add(kind, "key", "db", `{"auths":{"x":{}}}`)
		f.Add(kind, ".dockerconfigjson", "db", `{"x":x}`)
		f.Add(kind, "tls.key", "db", "-----BEGIN PRIVATE KEY-----\nx\n-----END PRIVATE KEY-----")
		f.Add(kind, " ca.crt ", "other", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----")
	}
	f.Fuzz(func(t *testing.T, kind, key, object, content string) {
		files := []provider.File{{Path: "db", Data: secret.New([]byte(strings.ReplaceAll(content, "x", canary)))}}
		s, err := New(class.SecretObject{SecretName: "copy", Type: kind, Data: []class.SecretData{{ObjectName: object, Key: key}}}, files)
		if err != nil {
			if strings.Contains(err.Error(), canary) && !strings.Contains(kind+key+object, canary) {
				t.Errorf("the error shows the content: %v", err)
			}
			return
		}
		value, ok := s.Data[strings.TrimSpace(key)]
		switch {
		case !ok || len(s.Data) != 1 || strings.TrimSpace(key) == "" || value.Len() > maxSize || s.Type == accountToken:
			t.Errorf("the Secret is %+v", s)
		case s.Type == "kubernetes.io/dockerconfigjson" && strings.TrimSpace(key) == ".dockerconfigjson" && !json.Valid(value.Reveal()):
			t.Error("an API server would refuse to read it, and quote it")
		case s.Type == tls && strings.HasPrefix(strings.TrimSpace(key), "tls.") && strings.TrimSpace(key) != "tls.other" && value.Len() == 0:
			t.Error("a part of a TLS Secret is empty")
		}
	})
}
