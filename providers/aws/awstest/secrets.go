package awstest

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The staging labels that move by themselves.
const (
	current  = "AWSCURRENT"
	previous = "AWSPREVIOUS"
)

// A secret is one of Secrets Manager.
type secret struct {
	name, arn, description, key string
	tags                        []tag
	versions                    []*version
	created, changed, accessed  time.Time
	deleted                     time.Time // when it will be gone; zero: never
}

// A version of a secret has a text or bytes. Without stages it is deprecated.
type version struct {
	id      string
	text    *string
	bytes   []byte
	stages  []string
	created time.Time
}

type tag struct {
	Key   string `json:"Key"`
	Value string `json:"Value"`
}

// PutSecret makes a secret, or gives it a new AWSCURRENT version: its
// SecretString if the value is UTF-8, else its SecretBinary.
func (r *Region) PutSecret(name string, value []byte) (versionID string) {
	r.server.t.Helper()
	if !utf8.Valid(value) {
		return r.PutSecretBinary(name, value)
	}
	text := string(value)
	return r.putSecret(name, &text, nil)
}

// PutSecretBinary is PutSecret for a SecretBinary, whatever it is.
func (r *Region) PutSecretBinary(name string, value []byte) (versionID string) {
	r.server.t.Helper()
	return r.putSecret(name, nil, value)
}

func (r *Region) putSecret(name string, text *string, bytes []byte) (versionID string) {
	r.server.t.Helper()
	versionID = uuid()
	r.do("put secret "+name, func(c *call) error {
		if c.find(name) == nil {
			in := &createSecretInput{Name: name, Token: versionID, Text: text, Bytes: bytes}
			return errorOf(createSecret(c, in))
		}
		return errorOf(putSecretValue(c, &putSecretValueInput{ID: name, Token: versionID, Text: text, Bytes: bytes}))
	})
	return versionID
}

// errorOf returns the error of an operation whose answer is not needed.
func errorOf(_ any, err error) error { return err }

// StageSecret moves a staging label to a version.
func (r *Region) StageSecret(name, stage, versionID string) {
	r.server.t.Helper()
	r.do("stage secret "+name, func(c *call) error {
		in := &stageInput{ID: name, Stage: stage, To: versionID}
		if x := c.find(name); x != nil && x.staged(stage) != nil {
			in.From = x.staged(stage).id
		}
		return errorOf(updateSecretVersionStage(c, in))
	})
}

// DeleteSecret deletes a secret at once.
func (r *Region) DeleteSecret(name string) {
	r.server.t.Helper()
	r.do("delete secret "+name, func(c *call) error {
		return errorOf(deleteSecret(c, &deleteSecretInput{ID: name, Force: true}))
	})
}

// ScheduleDeletion marks a secret as deleted, which it will be in 30 days.
func (r *Region) ScheduleDeletion(name string) {
	r.server.t.Helper()
	r.do("delete secret "+name, func(c *call) error { return errorOf(deleteSecret(c, &deleteSecretInput{ID: name})) })
}

// SecretARN returns the ARN of a secret.
func (r *Region) SecretARN(name string) (arn string) {
	r.server.t.Helper()
	r.do("describe secret "+name, func(c *call) error {
		x, err := c.secret("DescribeSecret", name)
		if err == nil {
			arn = x.arn
		}
		return err
	})
	return arn
}

// find returns a secret by its name, its ARN, or its ARN without the last
// seven characters, which the service has added; nil if there is none.
func (c *call) find(id string) *secret {
	for name, x := range c.secrets {
		if !x.deleted.IsZero() && !c.now.Before(x.deleted) {
			delete(c.secrets, name)
		}
	}
	if x := c.secrets[id]; x != nil || !strings.HasPrefix(id, "arn:") {
		return x
	}
	for _, x := range c.secrets {
		if x.arn == id || x.arn[:len(x.arn)-len("-AbCdEf")] == id {
			return x
		}
	}
	return nil
}

// secret returns the secret that an operation is about, if the caller may do
// that. Whether it is there is only told to who may.
func (c *call) secret(operation, id string) (*secret, error) {
	x, name := c.find(id), id
	if x != nil {
		name = x.name
	} else if _, after, ok := strings.Cut(id, ":secret:"); ok {
		name = after
	}
	if err := c.allow("secretsmanager:"+operation, name, id); err != nil {
		return nil, err
	}
	if x == nil {
		return nil, refuse("ResourceNotFoundException", "Secrets Manager can't find the specified secret.")
	}
	return x, nil
}

// live is secret for operations that need one that is not deleted.
func (c *call) live(operation, id string) (*secret, error) {
	x, err := c.secret(operation, id)
	if err == nil && !x.deleted.IsZero() {
		return nil, refuse("InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion.")
	}
	return x, err
}

// version returns the version of that ID, or nil.
func (x *secret) version(id string) *version {
	for _, v := range x.versions {
		if v.id == id {
			return v
		}
	}
	return nil
}

// staged returns the version that has the staging label, or nil.
func (x *secret) staged(stage string) *version {
	for _, v := range x.versions {
		if slices.Contains(v.stages, stage) {
			return v
		}
	}
	return nil
}

// move attaches a staging label to a version, from where it is. What was
// current then is the previous version.
func (x *secret) move(stage string, to *version) {
	from := x.staged(stage)
	if from == to {
		return
	}
	if from != nil {
		from.drop(stage)
	}
	to.stages = append(to.stages, stage)
	if stage == current && from != nil {
		x.move(previous, from)
	}
}

func (v *version) drop(stage string) {
	v.stages = slices.DeleteFunc(v.stages, func(s string) bool { return s == stage })
}

// has reports whether the version has that content.
func (v *version) has(text *string, bytes []byte) bool {
	if text == nil || v.text == nil {
		return text == nil && v.text == nil && slices.Equal(v.bytes, bytes)
	}
	return *v.text == *text
}
