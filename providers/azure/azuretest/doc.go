// Package azuretest is an in-memory server with the protocols of those parts
// of Azure that a client of Key Vault calls: vaults, Entra ID, the metadata
// service of a virtual machine (IMDS), and the token proxy of AKS identity
// bindings. It is for the tests of such clients, which use the Azure SDK as it
// is, with its checks of names and challenges.
//
//	s := azuretest.New(t, nil)
//	s.Vault("kv1").PutSecret("db", "canary")
//	s.App(clientID, azuretest.App{Subjects: []string{"system:serviceaccount:shop:web"}})
//	token := s.ServiceAccountToken("shop", "web", "api://AzureADTokenExchange", time.Hour)
//	// the client's http.Transport has DialContext s.Dial and the RootCAs s.CAs();
//	// it logs in to s.Tenant with token, and reads https://kv1.vault.azure.net
//	if n := s.Count("secrets/get"); n != 1 {
//		t.Errorf("%d reads, want 1", n)
//	}
//
// # Addresses
//
// Dial reaches the server under the real names, with a certificate for
// whatever name the client asks for: login.microsoftonline.com and
// kv1.vault.azure.net, and the same of the clouds of the US government and
// China, and of Options.Clouds. A vault that no test has made has no address.
// At 169.254.169.254:80 there is IMDS. TLS to a name that ends in .ests.aks,
// whatever the address, reaches the token proxy.
//
// A process that knows nothing of this package reaches all that with
// HTTPS_PROXY set to ProxyURL and SSL_CERT_FILE to CAFile; IMDS, with
// HTTP_PROXY set to ProxyURL too.
//
// With Options.Pipe a server has no socket, so that it also lives in a bubble
// of testing/synctest, where an hour takes no time. Tokens end by the clock of
// the bubble.
//
// # What there is
//
// Vaults: reading a secret, a key or a certificate, by version or the newest,
// and lists of them and of their versions, in pages. Entra: instance
// discovery, OpenID metadata, and the client credentials grant with a secret,
// with an assertion that a certificate signed, and with one of a federated
// issuer. IMDS and the token proxy: tokens. An app may do everything in every
// vault that Vault.Deny does not forbid.
//
// What goes wrong is said by Break, Hang and Fail of a Vault, of Entra and of
// IMDS, and ended by Repair; what the client did is told by Calls and Count.
//
// # How true it is
//
// Codes, and the texts that people quote, are those of Azure; texts of rare
// errors are this server's own. Where Azure is lenient or silent this server
// is strict, so that it hides no mistake: lists are in no useful order, times
// of tokens allow for no difference of clocks, and a client that speaks to a
// host under the name of another is refused. Unlike Azure, what is written is
// seen at once, a deleted name can be used again, versions that are made
// within a second say to be a second apart, every vault is in all clouds,
// federated tokens may be signed with ECDSA, and access tokens are.
package azuretest
