package azuretest

import "time"

// A Secret is what PutSecretWith puts.
type Secret struct {
	Value       string
	ContentType string
	NotBefore   time.Time // zero: it says nothing
	Expires     time.Time // zero: it says nothing
	Disabled    bool
}

// PutSecret adds a version of a secret.
func (v *Vault) PutSecret(name, value string) (version string) {
	v.server.t.Helper()
	return v.PutSecretWith(name, Secret{Value: value})
}

// PutSecretWith adds a version of a secret.
func (v *Vault) PutSecretWith(name string, s Secret) (version string) {
	v.server.t.Helper()
	v.server.mu.Lock()
	defer v.server.mu.Unlock()
	id := newVersion()
	v.put(secrets, name, secretVersion(name, id, s, object{}))
	return id
}

// secretVersion returns a version, with what else lists say of it.
func secretVersion(name, id string, s Secret, more object) version {
	if s.ContentType != "" {
		more["contentType"] = s.ContentType
	}
	return version{
		id: id, expires: s.Expires, notBefore: s.NotBefore, disabled: s.Disabled, brief: more,
		full: func(vault string) object {
			answer := object{"id": idOf(vault, secrets, name, id), "value": s.Value}
			if more["managed"] == true {
				answer["kid"] = idOf(vault, keys, name, id)
			}
			return answer
		},
	}
}

// idOf returns the identifier of a version.
func idOf(vault, kind, name, version string) string {
	return vault + "/" + kind + "/" + name + "/" + version
}
