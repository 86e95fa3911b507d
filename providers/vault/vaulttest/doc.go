// Package vaulttest is an in-memory server with the protocol of Vault and
// OpenBao, for the tests of whatever is their client.
//
//	s := vaulttest.New(t, nil)
//	s.KV2("secret").Put("app/db", map[string]any{"password": "canary"})
//	s.Kubernetes("kubernetes").Role("app", vaulttest.Role{
//		Namespace: "shop", ServiceAccount: "app", Audience: "vault",
//		Grant: vaulttest.Grant{TTL: time.Hour, Allow: []string{"secret/data/app"}},
//	})
//	jwt := s.ServiceAccountToken("shop", "app", "vault", time.Hour)
//	// the client logs in at s.URL with jwt, trusts s.CAFile, and reads
//	if n := s.Count("GET", "secret/data/app/db"); n != 1 || s.Logins() != 1 {
//		t.Errorf("%d reads and %d logins, want one of each", n, s.Logins())
//	}
//
// What is there: the engines KV1, KV2, Database and PKI; the auth mounts
// Kubernetes, JWT, AppRole and Cert, and tokens that the test makes itself
// (Namespace.Token); namespaces (Namespace.In), each with its own mounts;
// auth/token for a token that deals with itself; sys/leases, sys/health,
// sys/seal-status and sys/internal/ui/mounts. A mount is made when it is first
// named. Values are what the test puts in, so that it can search for them.
//
// Tokens and leases end as the server's do: at their time, at their maximum
// whatever is renewed, and leases with the token that they were issued to.
// Nothing runs for that; whoever looks compares times. With Options.Pipe and
// Server.Dial a server also lives in a bubble of testing/synctest, where a
// month takes no time.
//
// What goes wrong is said by Seal, Break, Hang, Fail, Respond, Deny,
// RevokeToken, RevokeLease and Restart; Repair and Unseal end it. What the
// client did is told by Requests, Count, Logins, Leases, Tokens and
// TokensIssued.
//
// Answers are those of OpenBao 2.4.0, to the letter: status, names and order
// of fields, formats of times, texts of errors. testdata/wire.txt was recorded
// from it, and the tests hold the same conversation with this server. What is
// simpler here: a policy is a list of paths that knows no capabilities; a
// mount's configuration is shown with defaults only; of the many parameters of
// roles there are those that clients see. Requests outside of all that get
// 404 or 405, as unsupported paths do.
package vaulttest
