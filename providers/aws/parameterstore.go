package aws

import (
	"context"
	"fmt"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/ssm/types"

	"github.com/keymount/keymount/pkg/provider"
)

// maxParameters is how many one GetParameters may ask for.
const maxParameters = 10

// parameterBatches splits reads into those of one call each. No parameter is
// twice in one call, whatever its version: the answer has them in any order,
// and need not say which version it was asked for.
func (p *place) parameterBatches(reads []*read) (batches [][]*read) {
	var members []map[string]bool
	for _, r := range reads {
		name := parameterName(p.target(r).name)
		i := 0
		for i < len(batches) && (len(batches[i]) == maxParameters || members[i][name]) {
			i++
		}
		if i == len(batches) {
			batches, members = append(batches, nil), append(members, make(map[string]bool))
		}
		batches[i] = append(batches[i], r)
		members[i][name] = true
	}
	return batches
}

// parameterName returns the name of a parameter, given by name or ARN, perhaps
// with a version.
func parameterName(name string) string {
	if strings.HasPrefix(name, arnPrefix) {
		if _, resource, ok := strings.Cut(name, ":parameter/"); ok {
			name = resource
		}
	}
	name, _, _ = strings.Cut(name, ":")
	return strings.TrimPrefix(name, "/")
}

// selector is what GetParameters calls the target.
func (t target) selector() string {
	switch {
	case t.version != "":
		return t.name + ":" + t.version
	case t.label != "":
		return t.name + ":" + t.label
	default:
		return t.name
	}
}

// String is how messages call the target.
func (t target) String() string {
	text := fmt.Sprintf("%q", t.name)
	if t.version != "" {
		text += fmt.Sprintf(" version %q", t.version)
	}
	if t.label != "" {
		text += fmt.Sprintf(" label %q", t.label)
	}
	return text
}

// getParameters reads parameters in one call, which is refused as a whole if
// one of them is.
func (p *place) getParameters(ctx context.Context, reads []*read) {
	in := &ssm.GetParametersInput{WithDecryption: aws.Bool(true)}
	for _, r := range reads {
		in.Names = append(in.Names, p.target(r).selector())
	}
	var out *ssm.GetParametersOutput
	err := p.do(ctx, func(creds aws.CredentialsProvider) (err error) {
		out, err = p.parameters.GetParameters(ctx, in, func(o *ssm.Options) { o.Credentials = creds })
		return err
	})
	if err != nil {
		for _, r := range reads {
			p.missed(r, "GetParameters", err)
		}
		return
	}
	byName := make(map[string]types.Parameter, len(out.Parameters))
	for _, found := range out.Parameters {
		byName[parameterName(aws.ToString(found.Name))] = found
	}
	for _, r := range reads {
		found, ok := byName[parameterName(p.target(r).name)]
		if !ok || found.Value == nil || found.LastModifiedDate == nil {
			// A text that people search for.
			p.missed(r, "GetParameters", fmt.Errorf("invalid parameters: %s: there is no such parameter, or no such version of it: %w", p.target(r).selector(), provider.ErrNotFound))
			continue
		}
		p.found(r, parameterVersion(found.Version, found.LastModifiedDate.UnixMilli()), []byte(*found.Value))
	}
}
