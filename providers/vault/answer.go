package vault

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// An answer is what is known of a read: that it is not there, which version it
// has, or all of it.
type answer struct {
	kind     kind
	absent   bool
	number   string // of a versioned read, else empty
	version  string // equal for equal content; empty: only the content tells
	response *response
}

// absentVersion is the version of an object that is not there and need not be.
const absentVersion = "absent"

// version returns the version of an object that is made of the answer of a
// server. That of what the server itself numbers or leases survives a restart;
// any other is an HMAC, because a plain hash of a password can be guessed.
func (o object) version(a *answer, server string, macKey []byte) (string, error) {
	switch {
	case a.absent:
		return absentVersion, nil
	case a.version != "":
		return strings.TrimPrefix(a.number+"-"+digest(o.recipe(), server, a.version), "-"), nil
	}
	value, err := a.essence()
	if o.key != "" {
		value, err = o.content(a, Vault)
	}
	switch {
	case errors.Is(err, errNoKey) && o.optional:
		return absentVersion, nil
	case err != nil:
		return "", o.failed(err)
	}
	mac := hmac.New(sha256.New, macKey)
	fmt.Fprintf(mac, "%q %q ", o.recipe(), server)
	mac.Write(value.Reveal())
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:12]), nil
}

// stored is what version 2 of the key-value engine says of one version.
type stored struct {
	Created   string `json:"created_time"`
	Deletion  string `json:"deletion_time"`
	Destroyed bool   `json:"destroyed"`
}

// answer returns what is known of a read of that version. A number alone is
// not enough: a secret that was destroyed and made anew counts from one again.
func (s stored) answer(number json.Number) *answer {
	return &answer{
		kind: versioned, number: number.String(), version: number.String() + " " + s.Created,
		absent: s.Destroyed || s.Deletion != "" && !s.outlives(),
	}
}

// outlives reports whether the deletion is one that is yet to come.
func (s stored) outlives() bool {
	at, err := time.Parse(time.RFC3339Nano, s.Deletion)
	return err == nil && time.Now().Before(at)
}

// ofMetadata returns what the metadata of a versioned read tells.
func ofMetadata(r *read, response *response) (*answer, error) {
	var body struct {
		Data struct {
			Current  json.Number       `json:"current_version"`
			Versions map[string]stored `json:"versions"`
		} `json:"data"`
	}
	if err := response.decode(&body); err != nil {
		return nil, err
	}
	number := body.Data.Current
	if pinned := r.query.Get("version"); pinned != "" && pinned != "0" {
		number = json.Number(pinned)
	}
	version, ok := body.Data.Versions[number.String()]
	if !ok {
		return &answer{kind: versioned, absent: true}, nil
	}
	return version.answer(number), nil
}

// ofData returns the answer of a read that was made. What looks like version
// 2 of the key-value engine is that, where the server does not say.
func ofData(k kind, response *response) *answer {
	if k != versioned && k != unknown {
		return &answer{kind: k, response: response}
	}
	var body struct {
		Data struct {
			Data     map[string]any `json:"data"`
			Metadata *struct {
				stored
				Version json.Number `json:"version"`
			} `json:"metadata"`
		} `json:"data"`
	}
	if err := response.decode(&body); err != nil || body.Data.Metadata == nil || body.Data.Metadata.Version == "" || body.Data.Data == nil {
		return &answer{kind: k, response: response}
	}
	a := body.Data.Metadata.answer(body.Data.Metadata.Version)
	a.kind, a.absent, a.response = k, false, response
	return a
}

// errEmpty says that the server answered with nothing.
func errEmpty(r *read) error {
	return fmt.Errorf("empty response from %q: %w", r.path, provider.ErrNotFound) // a text that people search for
}
