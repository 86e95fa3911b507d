// Package awstest is an in-memory server with the protocols of those parts of
// AWS that a client of its secrets calls: Secrets Manager, SSM Parameter
// Store, STS and the agent of EKS Pod Identity. It is for the tests of such
// clients, which use the AWS SDK as it is.
//
//	s := awstest.New(t, nil)
//	s.Region("eu-west-1").PutSecret("shop/db", []byte("canary"))
//	s.Role("arn:aws:iam::123456789012:role/shop", awstest.Role{Subjects: []string{"system:serviceaccount:shop:web"}})
//	token := s.ServiceAccountToken("shop", "web", "sts.amazonaws.com", time.Hour)
//	// the client's http.Transport has DialContext s.Dial and the RootCAs s.CAs();
//	// it assumes the role with token at STS, and reads the secret
//	if n := s.Count("secretsmanager:GetSecretValue"); n != 1 {
//		t.Errorf("%d reads, want 1", n)
//	}
//
// # Addresses
//
// Dial reaches the server at every address. At port 443 it speaks TLS, with a
// certificate for whatever name the client asks for; a name of AWS's own says
// which service and region is meant (secretsmanager.eu-west-1.amazonaws.com,
// also those for FIPS and dual-stack, of VPC endpoints and of other
// partitions). At 169.254.170.23:80 and [fd00:ec2::23]:80 there is the agent.
// At URL, for AWS_ENDPOINT_URL, there is everything, without TLS: there, the
// region is that of the signature.
//
// With Options.Pipe a server has no socket, so that it also lives in a bubble
// of testing/synctest, where an hour takes no time. Credentials, tokens and
// signatures end by the clock of the bubble.
//
// # What there is
//
// Secrets Manager: CreateSecret, PutSecretValue, GetSecretValue,
// BatchGetSecretValue, DescribeSecret, ListSecrets, ListSecretVersionIds,
// UpdateSecretVersionStage, DeleteSecret and RestoreSecret. Parameter Store:
// PutParameter, GetParameter, GetParameters, GetParametersByPath,
// LabelParameterVersion and DeleteParameter. STS: AssumeRole,
// AssumeRoleWithWebIdentity and GetCallerIdentity. The agent: /v1/credentials.
//
// Signatures (Signature Version 4) are made again and compared, with the
// region, service and time that they are for. Web identity tokens are verified
// as STS does. A role may do everything that Server.Deny does not forbid.
//
// What goes wrong is said by Break, Hang and Fail of a Region and of the
// Agent, and ended by Repair; what the client did is told by Calls and Count.
//
// # How true it is
//
// Codes and limits are those of AWS's models and documentation, and texts those
// that people have quoted; those of rare errors are this server's own. Where
// AWS is lenient or silent this server is strict, so that it hides no mistake:
// members that no operation here knows are refused, and so is one parameter
// twice in a GetParameters, whatever its version. BatchGetSecretValue goes to
// the next page at 1 MiB. Unlike AWS, what is written is seen at once, a role
// may be assumed in every partition, every role trusts every issuer, and
// deleted secrets are gone at their time.
package awstest
