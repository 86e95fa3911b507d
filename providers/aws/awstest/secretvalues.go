package awstest

import (
	"errors"
	"slices"
)

// maxPage is how many bytes of values a page of BatchGetSecretValue has, unless
// it is only one value.
const maxPage = 1 << 20

type secretValue struct {
	ARN     string   `json:"ARN"`
	Created epoch    `json:"CreatedDate"`
	Name    string   `json:"Name"`
	Bytes   []byte   `json:"SecretBinary,omitempty"`
	Text    *string  `json:"SecretString,omitempty"`
	Version string   `json:"VersionId"`
	Stages  []string `json:"VersionStages,omitempty"`
}

type getSecretValueInput struct {
	ID      string `json:"SecretId" need:"yes" len:"1-2048"`
	Version string `json:"VersionId" len:"32-64"`
	Stage   string `json:"VersionStage" len:"1-256"`
}

func getSecretValue(c *call, in *getSecretValueInput) (any, error) {
	value, err := c.value(in)
	if err != nil {
		return nil, err
	}
	return value, nil
}

// value returns the value of a version, if the caller may see it.
func (c *call) value(in *getSecretValueInput) (*secretValue, error) {
	x, err := c.live("GetSecretValue", in.ID)
	if err != nil {
		return nil, err
	}
	v, err := x.chosen(in.Version, in.Stage)
	if err != nil {
		return nil, err
	}
	x.accessed = c.now
	return &secretValue{ARN: x.arn, Name: x.name, Created: epoch(v.created), Version: v.id, Stages: slices.Clone(v.stages), Text: v.text, Bytes: v.bytes}, nil
}

// chosen returns the version of that ID, or with that staging label.
func (x *secret) chosen(id, stage string) (*version, error) {
	const missing = "Secrets Manager can't find the specified secret value for %s: %s"
	if id == "" {
		if stage == "" {
			stage = current
		}
		if v := x.staged(stage); v != nil {
			return v, nil
		}
		return nil, refuse("ResourceNotFoundException", missing, "staging label", stage)
	}
	v := x.version(id)
	switch {
	case v == nil:
		return nil, refuse("ResourceNotFoundException", missing, "VersionId", id)
	case stage != "" && !slices.Contains(v.stages, stage):
		return nil, refuse("InvalidRequestException", "You provided a VersionStage that is not associated to the provided VersionId.")
	}
	return v, nil
}

type batchInput struct {
	IDs     []string `json:"SecretIdList" count:"1-20" len:"1-2048"`
	Filters []filter `json:"Filters" count:"0-10"`
	Most    int      `json:"MaxResults" len:"1-20"`
	Next    string   `json:"NextToken" len:"1-4096"`
}

type secretProblem struct {
	ID      string `json:"SecretId"`
	Code    string `json:"ErrorCode"`
	Message string `json:"Message"`
}

type batch struct {
	Values []*secretValue  `json:"SecretValues"`
	Next   string          `json:"NextToken,omitempty"`
	Errors []secretProblem `json:"Errors"`
}

func batchGetSecretValue(c *call, in *batchInput) (any, error) {
	if err := c.allow("secretsmanager:BatchGetSecretValue", "", ""); err != nil {
		return nil, err
	}
	ids, err := c.batched(in)
	if err != nil {
		return nil, err
	}
	start, err := position(in.Next, len(ids))
	if err != nil {
		return nil, refuse("InvalidNextTokenException", "The NextToken value is invalid.")
	}
	answer := batch{Values: []*secretValue{}, Errors: []secretProblem{}}
	size := 0
	for i := start; i < len(ids); i++ {
		value, err := c.value(&getSecretValueInput{ID: ids[i]})
		var refused *refusal
		if errors.As(err, &refused) {
			answer.Errors = append(answer.Errors, secretProblem{ids[i], refused.code, refused.message})
			continue
		}
		size += value.size()
		if len(answer.Values) > 0 && size > maxPage || in.Most != 0 && len(answer.Values) == in.Most {
			answer.Next = nextToken(i)
			break
		}
		answer.Values = append(answer.Values, value)
	}
	return answer, nil
}

// batched returns the secrets that a batch is about.
func (c *call) batched(in *batchInput) ([]string, error) {
	switch {
	case (len(in.IDs) == 0) == (len(in.Filters) == 0):
		return nil, refuse("InvalidParameterException", "Either 'SecretIdList' or 'Filters' must be provided, but not both.")
	case in.Most != 0 && len(in.Filters) == 0:
		return nil, refuse("InvalidParameterException", "'Filters' not specified. 'Filters' must also be specified when 'MaxResults' is provided.")
	case len(in.IDs) > 0:
		return in.IDs, nil
	}
	if err := c.allow("secretsmanager:ListSecrets", "", ""); err != nil {
		return nil, err
	}
	if in.Most == 0 {
		in.Most = 20
	}
	found, err := c.filtered(in.Filters, false)
	var ids []string
	for _, x := range found {
		ids = append(ids, x.name)
	}
	return ids, err
}

func (v *secretValue) size() int {
	if v.Text != nil {
		return len(*v.Text)
	}
	return len(v.Bytes)
}
