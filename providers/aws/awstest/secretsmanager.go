package awstest

import (
	"net/http"
	"regexp"
	"slices"
	"time"
)

func secretsManager() *service {
	return &service{
		name: "secretsmanager",
		operations: map[string]operation{
			"BatchGetSecretValue":      op(batchGetSecretValue),
			"CreateSecret":             op(createSecret),
			"DeleteSecret":             op(deleteSecret),
			"DescribeSecret":           op(describeSecret),
			"GetSecretValue":           op(getSecretValue),
			"ListSecrets":              op(listSecrets),
			"ListSecretVersionIds":     op(listSecretVersionIDs),
			"PutSecretValue":           op(putSecretValue),
			"RestoreSecret":            op(restoreSecret),
			"UpdateSecretVersionStage": op(updateSecretVersionStage),
		},
		write:  writeJSON,
		refuse: writeJSONRefusal,
		outage: &refusal{http.StatusServiceUnavailable, "InternalServiceError", "An error occurred on the server side."},
	}
}

// secretName is the answer of operations that say which secret it was.
type secretName struct {
	ARN     string   `json:"ARN"`
	Name    string   `json:"Name"`
	Version string   `json:"VersionId,omitempty"`
	Stages  []string `json:"VersionStages,omitempty"`
	Gone    *epoch   `json:"DeletionDate,omitempty"`
}

type createSecretInput struct {
	Name        string  `json:"Name" need:"yes" len:"1-512"`
	Token       string  `json:"ClientRequestToken" len:"32-64"`
	Description string  `json:"Description" len:"0-2048"`
	Key         string  `json:"KmsKeyId" len:"0-2048"`
	Text        *string `json:"SecretString" len:"1-65536" secret:"yes"`
	Bytes       []byte  `json:"SecretBinary" len:"1-65536" secret:"yes"`
	Tags        []tag   `json:"Tags"`
}

var validSecretName = regexp.MustCompile(`^[a-zA-Z0-9/_+=.@!-]+$`)

func createSecret(c *call, in *createSecretInput) (any, error) {
	if err := c.allow("secretsmanager:CreateSecret", in.Name, in.Name); err != nil {
		return nil, err
	}
	if !validSecretName.MatchString(in.Name) {
		return nil, refuse("ValidationException", "Invalid name. Must be a valid name containing alphanumeric characters, or any of the following: -/_+=.@!")
	}
	v, err := newVersion(c, in.Token, in.Text, in.Bytes)
	if err != nil {
		return nil, err
	}
	if x := c.find(in.Name); x != nil {
		same := x.version(in.Token)
		switch {
		case !x.deleted.IsZero():
			return nil, refuse("InvalidRequestException", "You can't create this secret because a secret with this name is already scheduled for deletion.")
		case same != nil && same.has(in.Text, in.Bytes):
			return secretName{ARN: x.arn, Name: x.name, Version: same.id}, nil
		}
		return nil, refuse("ResourceExistsException", "The operation failed because the secret %s already exists.", in.Name)
	}
	x := &secret{
		name: in.Name, arn: c.arn("secretsmanager", "secret:"+in.Name+"-"+characters(6, letters)),
		description: in.Description, key: in.Key, tags: in.Tags, created: c.now, changed: c.now,
	}
	c.secrets[in.Name] = x
	answer := secretName{ARN: x.arn, Name: x.name}
	if v != nil {
		v.stages, x.versions, answer.Version = []string{current}, []*version{v}, v.id
	}
	return answer, nil
}

// newVersion returns a version with the content, if it has any.
func newVersion(c *call, id string, text *string, bytes []byte) (*version, error) {
	switch {
	case text != nil && bytes != nil:
		return nil, refuse("InvalidParameterException", "You can't specify both a binary secret value and a string secret value in the same secret.")
	case text == nil && bytes == nil:
		return nil, nil
	case id == "":
		id = uuid()
	}
	v := &version{id: id, text: text, bytes: bytes, created: c.now}
	if limit := outside("1-65536", len(v.content())); limit != "" { // in bytes, also of a text
		return nil, refuse("ValidationException", "1 validation error detected: Value at 'secretString' failed to satisfy constraint: Member must have length %s", limit)
	}
	return v, nil
}

func (v *version) content() []byte {
	if v.text != nil {
		return []byte(*v.text)
	}
	return v.bytes
}

type putSecretValueInput struct {
	ID     string   `json:"SecretId" need:"yes" len:"1-2048"`
	Token  string   `json:"ClientRequestToken" len:"32-64"`
	Text   *string  `json:"SecretString" len:"1-65536" secret:"yes"`
	Bytes  []byte   `json:"SecretBinary" len:"1-65536" secret:"yes"`
	Stages []string `json:"VersionStages" count:"1-20" len:"1-256"`
}

func putSecretValue(c *call, in *putSecretValueInput) (any, error) {
	x, err := c.live("PutSecretValue", in.ID)
	if err != nil {
		return nil, err
	}
	v, err := newVersion(c, in.Token, in.Text, in.Bytes)
	switch {
	case err != nil:
		return nil, err
	case v == nil:
		return nil, refuse("InvalidRequestException", "You must provide either SecretString or SecretBinary.")
	}
	if same := x.version(v.id); same != nil {
		if !same.has(in.Text, in.Bytes) {
			return nil, refuse("ResourceExistsException", "You can't use ClientRequestToken %s because that value is already in use for a version of secret %s.", v.id, x.arn)
		}
		return secretName{ARN: x.arn, Name: x.name, Version: same.id, Stages: same.stages}, nil
	}
	x.versions, x.changed = append(x.versions, v), c.now
	stages := in.Stages
	if len(stages) == 0 || len(x.versions) == 1 && !slices.Contains(stages, current) {
		stages = append(stages, current)
	}
	for _, stage := range stages {
		x.move(stage, v)
	}
	return secretName{ARN: x.arn, Name: x.name, Version: v.id, Stages: v.stages}, nil
}

type stageInput struct {
	ID    string `json:"SecretId" need:"yes" len:"1-2048"`
	Stage string `json:"VersionStage" need:"yes" len:"1-256"`
	From  string `json:"RemoveFromVersionId" len:"32-64"`
	To    string `json:"MoveToVersionId" len:"32-64"`
}

func updateSecretVersionStage(c *call, in *stageInput) (any, error) {
	x, err := c.live("UpdateSecretVersionStage", in.ID)
	if err != nil {
		return nil, err
	}
	for _, id := range []string{in.From, in.To} {
		if id != "" && x.version(id) == nil {
			return nil, refuse("ResourceNotFoundException", "Secrets Manager can't find the specified secret value for VersionId: %s", id)
		}
	}
	from, to := x.staged(in.Stage), x.version(in.To)
	switch {
	case from != nil && from != to && in.From == "":
		return nil, refuse("InvalidParameterException", "The parameter RemoveFromVersionId can't be empty. Staging label %s is currently attached to version %s, "+
			"so you must explicitly reference that version in RemoveFromVersionId.", in.Stage, from.id)
	case in.From != "" && (from == nil || from.id != in.From):
		return nil, refuse("InvalidParameterException", "The version specified in RemoveFromVersionId does not have the staging label %s.", in.Stage)
	case to != nil:
		x.move(in.Stage, to)
	case in.Stage == current:
		return nil, refuse("InvalidParameterException", "You can't remove the staging label AWSCURRENT from a version without moving it to another one.")
	case from != nil:
		from.drop(in.Stage)
	}
	x.changed = c.now
	return secretName{ARN: x.arn, Name: x.name}, nil
}

type deleteSecretInput struct {
	ID    string `json:"SecretId" need:"yes" len:"1-2048"`
	Days  *int   `json:"RecoveryWindowInDays"`
	Force bool   `json:"ForceDeleteWithoutRecovery"`
}

func deleteSecret(c *call, in *deleteSecretInput) (any, error) {
	x, err := c.secret("DeleteSecret", in.ID)
	days := 30
	if in.Days != nil {
		days = *in.Days
	}
	switch {
	case err != nil:
		return nil, err
	case in.Force && in.Days != nil:
		return nil, refuse("InvalidParameterException", "You can't use ForceDeleteWithoutRecovery in conjunction with RecoveryWindowInDays.")
	case days < 7 || days > 30:
		return nil, refuse("InvalidParameterException", "The RecoveryWindowInDays value must be between 7 and 30 days (inclusive).")
	case in.Force:
		delete(c.secrets, x.name)
		gone := epoch(c.now)
		return secretName{ARN: x.arn, Name: x.name, Gone: &gone}, nil
	case !x.deleted.IsZero():
		return nil, refuse("InvalidRequestException", "You tried to perform the operation on a secret that's currently marked deleted.")
	}
	x.deleted = c.now.Add(time.Duration(days) * 24 * time.Hour)
	gone := epoch(x.deleted)
	return secretName{ARN: x.arn, Name: x.name, Gone: &gone}, nil
}

type secretInput struct {
	ID string `json:"SecretId" need:"yes" len:"1-2048"`
}

func restoreSecret(c *call, in *secretInput) (any, error) {
	x, err := c.secret("RestoreSecret", in.ID)
	if err != nil {
		return nil, err
	}
	x.deleted = time.Time{}
	return secretName{ARN: x.arn, Name: x.name}, nil
}
