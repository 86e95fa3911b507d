package provider

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Warning says what is wrong with a bundle that is served nevertheless.
type Warning struct {
	Reason WarningReason `json:"reason"`
	// Message is one line for people, of at most MaxWarning bytes. It names the
	// object and the version, shows no secret, and stays the same for as long as
	// nothing changes: people are told again when it does not.
	Message string `json:"message"`
}

// A WarningReason is the kind of a Warning: one of the constants.
type WarningReason string

// Expired: the store serves what it says is no longer to be used.
const Expired WarningReason = "Expired"

// The bounds of warnings, which people read.
const (
	MaxWarning  = 512 // bytes of a message
	MaxWarnings = 64  // of a bundle
)

// validate reports why w is not fit to be shown. The error does not show it.
func (w Warning) validate() error {
	switch {
	case w.Reason != Expired:
		return errors.New("a warning of a reason that is not known")
	case w.Message == "" || len(w.Message) > MaxWarning:
		return fmt.Errorf("a warning with a message of %d bytes, want 1 to %d", len(w.Message), MaxWarning)
	case !utf8.ValidString(w.Message) || strings.ContainsFunc(w.Message, unprintable):
		return errors.New("a warning with a message that is not one line of printable text")
	}
	return nil
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// validateWarnings checks that people can be shown the warnings.
func validateWarnings(warnings []Warning) error {
	if len(warnings) > MaxWarnings {
		return fmt.Errorf("%d warnings, want at most %d", len(warnings), MaxWarnings)
	}
	for _, w := range warnings {
		if err := w.validate(); err != nil {
			return err
		}
	}
	return nil
}
