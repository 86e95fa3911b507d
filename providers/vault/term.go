package vault

import (
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"time"

	"golang.org/x/crypto/ssh"
)

// A term is how long something that was made for one volume is good for.
type term struct {
	Read     string `json:"r"`           // digest of the read that it answers
	Lease    string `json:"l,omitempty"` // ID at the server; empty for a certificate without a lease
	Lifetime int64  `json:"s"`           // seconds, from its beginning

	granted   time.Time
	expires   time.Time
	renewable bool
}

// termOf returns the term of an answer, if it has one: a lease or the end of a
// certificate. A certificate that is merely read is nobody's own.
func termOf(r *read, response *response, now time.Time) (term, bool) {
	t := term{Read: r.digest, Lease: response.leaseID, granted: now, renewable: response.renewable}
	if t.Lease != "" {
		t.expires = now.Add(response.lease)
	} else if r.method != http.MethodGet && r.method != "LIST" {
		t.expires = endOfCertificate(response)
	}
	t.Lifetime = int64(t.expires.Sub(now) / time.Second)
	return t, t.Lifetime > 0
}

// endOfCertificate returns when the X.509 or SSH certificate in an answer
// ends; zero if there is none.
func endOfCertificate(r *response) time.Time {
	var body struct {
		Data struct {
			Certificate string `json:"certificate"`
			SignedKey   string `json:"signed_key"`
		} `json:"data"`
	}
	if r.empty() || r.decode(&body) != nil {
		return time.Time{}
	}
	if block, _ := pem.Decode([]byte(body.Data.Certificate)); block != nil {
		if certificate, err := x509.ParseCertificate(block.Bytes); err == nil {
			return certificate.NotAfter
		}
	}
	key, _, _, _, _ := ssh.ParseAuthorizedKey([]byte(body.Data.SignedKey)) //nolint:dogsled // the key is all that counts
	if certificate, ok := key.(*ssh.Certificate); ok && certificate.ValidBefore < ssh.CertTimeInfinity {
		return time.Unix(int64(certificate.ValidBefore), 0)
	}
	return time.Time{}
}

// keepPart is the part of a term after which it is renewed when the driver
// asks; it asks a little later.
const keepPart = 0.55

// due returns when the term is to be renewed, or replaced if it cannot be.
func (t *term) due() time.Time {
	return t.granted.Add(time.Duration(keepPart * float64(t.expires.Sub(t.granted))))
}
