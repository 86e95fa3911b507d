package awstest

import (
	"cmp"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

type secretDescription struct {
	ARN         string              `json:"ARN"`
	Created     epoch               `json:"CreatedDate"`
	Deleted     *epoch              `json:"DeletedDate,omitempty"`
	Description string              `json:"Description,omitempty"`
	Key         string              `json:"KmsKeyId,omitempty"`
	Accessed    *epoch              `json:"LastAccessedDate,omitempty"`
	Changed     epoch               `json:"LastChangedDate"`
	Name        string              `json:"Name"`
	Stages      map[string][]string `json:"VersionIdsToStages,omitempty"`     // of DescribeSecret
	ListStages  map[string][]string `json:"SecretVersionsToStages,omitempty"` // of ListSecrets
	Tags        []tag               `json:"Tags,omitempty"`
}

func (x *secret) describe() secretDescription {
	d := secretDescription{ARN: x.arn, Name: x.name, Description: x.description, Key: x.key, Created: epoch(x.created), Changed: epoch(x.changed), Tags: x.tags}
	for at, to := range map[*time.Time]**epoch{&x.deleted: &d.Deleted, &x.accessed: &d.Accessed} {
		if !at.IsZero() {
			e := epoch(*at)
			*to = &e
		}
	}
	return d
}

// stages returns the versions that have staging labels.
func (x *secret) stages() map[string][]string {
	stages := map[string][]string{}
	for _, v := range x.versions {
		if len(v.stages) > 0 {
			stages[v.id] = slices.Clone(v.stages)
		}
	}
	return stages
}

func describeSecret(c *call, in *secretInput) (any, error) {
	x, err := c.secret("DescribeSecret", in.ID)
	if err != nil {
		return nil, err
	}
	d := x.describe()
	d.Stages = x.stages()
	return d, nil
}

type filter struct {
	Key    string   `json:"Key"`
	Values []string `json:"Values"`
}

type listSecretsInput struct {
	Filters []filter `json:"Filters" count:"0-10"`
	Most    int      `json:"MaxResults" len:"1-100"`
	Next    string   `json:"NextToken" len:"1-4096"`
	Deleted bool     `json:"IncludePlannedDeletion"`
}

func listSecrets(c *call, in *listSecretsInput) (any, error) {
	if err := c.allow("secretsmanager:ListSecrets", "", ""); err != nil {
		return nil, err
	}
	found, err := c.filtered(in.Filters, in.Deleted)
	if err != nil {
		return nil, err
	}
	found, next, err := page(found, in.Next, cmp.Or(in.Most, 100))
	if err != nil {
		return nil, refuse("InvalidNextTokenException", "The NextToken value is invalid.")
	}
	answer := struct {
		Secrets []secretDescription `json:"SecretList"`
		Next    string              `json:"NextToken,omitempty"`
	}{[]secretDescription{}, next}
	for _, x := range found {
		d := x.describe()
		d.ListStages = x.stages()
		answer.Secrets = append(answer.Secrets, d)
	}
	return answer, nil
}

// filtered returns the secrets that all filters match, by name.
func (c *call) filtered(filters []filter, deleted bool) (found []*secret, err error) {
	for _, f := range filters {
		if !slices.Contains([]string{"description", "name", "tag-key", "tag-value", "all"}, f.Key) || len(f.Values) == 0 || len(f.Values) > 10 {
			return nil, refuse("ValidationException", "1 validation error detected: Value '%s' at 'filters.1.member.key' failed to satisfy constraint: "+
				"Member must satisfy enum value set: [all, name, tag-key, description, tag-value]", f.Key)
		}
	}
	c.find("") // drops what is gone
	for _, name := range slices.Sorted(maps.Keys(c.secrets)) {
		x := c.secrets[name]
		matches := func(f filter) bool { return f.matches(x) }
		if (deleted || x.deleted.IsZero()) && !slices.ContainsFunc(filters, func(f filter) bool { return !matches(f) }) {
			found = append(found, x)
		}
	}
	return found, nil
}

// matches reports whether one of the values begins what the filter is about;
// one with a ! must not.
func (f filter) matches(x *secret) bool {
	var about []string
	for _, t := range x.tags {
		switch f.Key {
		case "tag-key":
			about = append(about, t.Key)
		case "tag-value":
			about = append(about, t.Value)
		case "all":
			about = append(about, t.Key, t.Value)
		}
	}
	if f.Key == "name" || f.Key == "all" {
		about = append(about, x.name)
	}
	if f.Key == "description" || f.Key == "all" {
		about = append(about, x.description)
	}
	for _, value := range f.Values {
		prefix, not := strings.CutPrefix(value, "!")
		if slices.ContainsFunc(about, func(text string) bool { return strings.HasPrefix(text, prefix) }) != not {
			return true
		}
	}
	return false
}

type listVersionsInput struct {
	ID         string `json:"SecretId" need:"yes" len:"1-2048"`
	Most       int    `json:"MaxResults" len:"1-100"`
	Next       string `json:"NextToken" len:"1-4096"`
	Deprecated bool   `json:"IncludeDeprecated"`
}

type listedVersion struct {
	ID      string   `json:"VersionId"`
	Stages  []string `json:"VersionStages,omitempty"`
	Created epoch    `json:"CreatedDate"`
}

func listSecretVersionIDs(c *call, in *listVersionsInput) (any, error) {
	x, err := c.secret("ListSecretVersionIds", in.ID)
	if err != nil {
		return nil, err
	}
	versions := []listedVersion{}
	for _, v := range x.versions {
		if in.Deprecated || len(v.stages) > 0 {
			versions = append(versions, listedVersion{v.id, slices.Clone(v.stages), epoch(v.created)})
		}
	}
	versions, next, err := page(versions, in.Next, cmp.Or(in.Most, 100))
	if err != nil {
		return nil, refuse("InvalidNextTokenException", "The NextToken value is invalid.")
	}
	return struct {
		ARN      string          `json:"ARN"`
		Name     string          `json:"Name"`
		Versions []listedVersion `json:"Versions"`
		Next     string          `json:"NextToken,omitempty"`
	}{x.arn, x.name, versions, next}, nil
}

// page returns the elements from where the token says, at most so many, and the
// token for the rest; empty if there is none.
func page[E any](all []E, token string, most int) (some []E, next string, err error) {
	start, err := position(token, len(all))
	if err != nil {
		return nil, "", err
	}
	if all = all[start:]; len(all) <= most {
		return all, "", nil
	}
	return all[:most], nextToken(start + most), nil
}

// A token is a position that means nothing to who has it.
const tokenPrefix = "AAAA"

func nextToken(position int) string {
	return base64.StdEncoding.EncodeToString([]byte(tokenPrefix + strconv.Itoa(position)))
}

func position(token string, most int) (int, error) {
	if token == "" {
		return 0, nil
	}
	raw, err := base64.StdEncoding.DecodeString(token)
	number, ours := strings.CutPrefix(string(raw), tokenPrefix)
	n, notNumber := strconv.Atoi(number)
	if err != nil || !ours || notNumber != nil || n < 0 || n > most {
		return 0, errors.New("it is no token of this server")
	}
	return n, nil
}
