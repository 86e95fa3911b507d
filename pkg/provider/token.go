package provider

import (
	"fmt"
	"time"
)

// A MissingTokenError says that a request has no live service account token of
// an audience. It wraps ErrDenied. A driver that may ask the API server for
// tokens does so when it sees one, and fetches once more.
type MissingTokenError struct {
	Audience string // empty for the API server's own
}

// Error says how the token can be had.
func (e *MissingTokenError) Error() string {
	audience := fmt.Sprintf("audience %.200q", e.Audience)
	if e.Audience == "" {
		audience = "the API server's own audience"
	}
	return fmt.Sprintf("no valid service account token of %s: list it in spec.tokenRequests of the CSIDriver object "+
		"(Helm value csiDriver.tokenRequests), or run the driver with --mint-tokens (Helm value mintTokens.enabled): %v", audience, ErrDenied)
}

// Unwrap returns ErrDenied.
func (e *MissingTokenError) Unwrap() error { return ErrDenied }

// For returns the token of an audience, or a *MissingTokenError if there is
// none that is valid at now. The empty audience is the API server's own.
func (t Tokens) For(audience string, now time.Time) (Token, error) {
	token, ok := t[audience]
	if !ok || token.Expired(now) {
		return Token{}, &MissingTokenError{Audience: audience}
	}
	return token, nil
}
