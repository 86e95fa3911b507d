package aws

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"github.com/keymount/keymount/pkg/provider"
)

const (
	currentStage = "AWSCURRENT"
	maxBatch     = 20 // secrets in one BatchGetSecretValue
	maxPages     = 2 * maxBatch
)

func (p *place) batchKey() string { return p.identity.key + p.region }

func (p *place) describeKey(r *read) string { return p.identity.key + p.region + p.target(r).name }

// batch reads the current versions of secrets in one call. Who may not make
// that call reads them one by one from now on.
func (p *place) batch(ctx context.Context, reads []*read) {
	values, refusals, err := p.batchGet(ctx, reads)
	switch {
	case is(err, "AccessDeniedException"):
		p.refused.note(p.batchKey())
		p.leave(reads...)
		return
	case err != nil:
		for _, r := range reads {
			p.missed(r, "BatchGetSecretValue", err)
		}
		return
	}
	for _, r := range reads {
		id := p.target(r).name
		value := slices.IndexFunc(values, func(v types.SecretValueEntry) bool { return names(id, v.Name, v.ARN) })
		refusal := slices.IndexFunc(refusals, func(e types.APIErrorType) bool { return aws.ToString(e.SecretId) == id })
		switch {
		case value >= 0 && values[value].VersionId != nil:
			v := values[value]
			p.found(r, *v.VersionId, content(v.SecretString, v.SecretBinary))
		case refusal >= 0:
			e := refusals[refusal]
			code := printable(aws.ToString(e.ErrorCode))
			p.missed(r, "BatchGetSecretValue", &problem{code: code, message: printable(aws.ToString(e.Message)), reason: reason(code, 0)})
		default:
			p.leave(r)
		}
	}
}

// batchGet makes the call, and again while the answer is only part of it.
func (p *place) batchGet(ctx context.Context, reads []*read) (values []types.SecretValueEntry, refusals []types.APIErrorType, err error) {
	in := &secretsmanager.BatchGetSecretValueInput{}
	for _, r := range reads {
		in.SecretIdList = append(in.SecretIdList, p.target(r).name)
	}
	for range maxPages {
		var out *secretsmanager.BatchGetSecretValueOutput
		err := p.do(ctx, func(creds aws.CredentialsProvider) (err error) {
			out, err = p.secrets.BatchGetSecretValue(ctx, in, as(creds))
			return err
		})
		if err != nil {
			return nil, nil, err
		}
		values, refusals = append(values, out.SecretValues...), append(refusals, out.Errors...)
		if aws.ToString(out.NextToken) == "" {
			break
		}
		in.NextToken = out.NextToken
	}
	return values, refusals, nil
}

// single answers one read. A cheap answer is the version alone, where the
// identity may see that: it costs as much as the value, and neither moves it
// nor has it decrypted.
func (p *place) single(ctx context.Context, r *read, cheap bool) {
	if cheap && p.target(r).version == "" && !p.refused.has(p.describeKey(r)) && p.describe(ctx, r) {
		return
	}
	t := p.target(r)
	in := &secretsmanager.GetSecretValueInput{SecretId: &t.name, VersionId: pointer(t.version), VersionStage: pointer(t.label)}
	var out *secretsmanager.GetSecretValueOutput
	err := p.do(ctx, func(creds aws.CredentialsProvider) (err error) {
		out, err = p.secrets.GetSecretValue(ctx, in, as(creds))
		return err
	})
	if err != nil {
		p.missed(r, "GetSecretValue", err)
		return
	}
	p.found(r, aws.ToString(out.VersionId), content(out.SecretString, out.SecretBinary))
}

// describe notes the version that a stage has now, and reports whether that
// answers the read. If not, the secret itself says better why.
func (p *place) describe(ctx context.Context, r *read) bool {
	t := p.target(r)
	var out *secretsmanager.DescribeSecretOutput
	err := p.do(ctx, func(creds aws.CredentialsProvider) (err error) {
		out, err = p.secrets.DescribeSecret(ctx, &secretsmanager.DescribeSecretInput{SecretId: &t.name}, as(creds))
		return err
	})
	switch {
	case errors.Is(err, provider.ErrUnavailable):
		p.missed(r, "DescribeSecret", err)
		return true
	case is(err, "AccessDeniedException"):
		p.refused.note(p.describeKey(r))
		return false
	case err != nil, out.DeletedDate != nil:
		return false
	}
	stage := t.label
	if stage == "" {
		stage = currentStage
	}
	for version, stages := range out.VersionIdsToStages {
		if slices.Contains(stages, stage) {
			p.results[r.index] = result{asked: true, answer: answer{version: version}}
			return true
		}
	}
	return false
}

// names reports whether an ID is that of a secret: its name, its ARN, or its
// ARN without the six characters that the service adds.
func names(id string, name, arn *string) bool {
	full := aws.ToString(arn)
	const suffix = len("-AbCdEf")
	return id == aws.ToString(name) || id == full || strings.HasPrefix(id, arnPrefix) && len(full) > suffix && id == full[:len(full)-suffix]
}

func content(text *string, binary []byte) []byte {
	if text != nil {
		return []byte(*text)
	}
	return binary
}

// as makes a call with credentials.
func as(creds aws.CredentialsProvider) func(*secretsmanager.Options) {
	return func(o *secretsmanager.Options) { o.Credentials = creds }
}
