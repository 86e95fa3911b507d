package providertest

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
)

// A plain Backend has none of the optional interfaces, and a provider that is
// nothing else.
type plain struct{ Backend }

func (p plain) Provider() provider.Provider { return struct{ provider.Provider }{p.Backend.Provider()} }

func (plain) Limits() Limits {
	return Limits{
		Value:    func(value []byte) string { return map[bool]string{true: "values are not empty"}[len(value) == 0] },
		Optional: "every object is required",
		Mode:     "files have no mode",
	}
}

func TestWhatABackendCannotExpressIsSaid(t *testing.T) {
	applicable, reasons := choose(plain{new(Fake).Backend()})
	if diff := cmp.Diff([]string{
		"OptionalMayBeMissing: every object is required",
		"ModeDefaultsAndOverrides: files have no mode",
		"ExpiredIsServedWithAWarning: backend has no Expirer",
		"DeniedIsDenied: backend has no Denier",
		"OutageIsUnavailable: backend has no Breaker",
		"RecoversAfterOutage: backend has no Breaker",
		"EachVolumeHasItsLease: backend has no Leaser",
		"LeaseIsRenewedNotReissued: backend has no Leaser",
		"LeaseAloneGivesAllFiles: backend has no Leaser",
		"ReleaseRevokes: backend has no Leaser",
		"HonoursCancellationWhileWaiting: backend has no Hanger",
		"ChangesAreTold: provider is no Notifier",
	}, reasons); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"ReturnsTheExactBytes", "ManyObjectsOneBundle", "PathsStayInside", "DuplicatePathsAreInvalid", "ModeIsTheRequests",
		"AllOrNothing", "MissingIsNotFoundAndNamesTheObject",
		"VersionStableWhileValueIs", "VersionChangesWithValue", "EqualValuesDifferentObjectsDifferentVersions",
		"VersionIsNotAPlainHash", "HeldAndCurrentMayBeUnchanged",
		"HonoursCancellation", "ConcurrentFetches", "RequestIsNotModified", "NoGoroutineLeft", "NoSecretOutsideFiles",
	}, names(applicable)); diff != "" {
		t.Errorf("cases (-want +got):\n%s", diff)
	}
}

func TestAPlainBackendPasses(t *testing.T) {
	Run(t, func(testing.TB) Backend { return plain{new(Fake).Backend()} })
}

func TestCanariesAreFoundInEveryForm(t *testing.T) {
	for name, encode := range map[string]func([]byte) string{
		"raw":           func(b []byte) string { return string(b) },
		"hex":           hex.EncodeToString,
		"upper hex":     func(b []byte) string { return fmt.Sprintf("%X", b) },
		"base64":        base64.StdEncoding.EncodeToString,
		"URL base64":    base64.RawURLEncoding.EncodeToString,
		"decimal bytes": func(b []byte) string { return fmt.Sprint(b) },
		"quoted bytes":  func(b []byte) string { return fmt.Sprintf("%#v", b) },
	} {
		c, other := newCanary(), newCanary()
		for _, prefix := range []string{"", "a", "ab"} {
			for _, suffix := range []string{"", "a", "ab"} {
				if text := encode([]byte(prefix + string(c) + suffix)); c.traceOf(text) == "" {
					t.Errorf("a canary is not found in %s: %s", name, text)
				} else if form := other.traceOf(text); form != "" {
					t.Errorf("another canary is found (%s) in %s: %s", form, name, text)
				}
			}
		}
	}
}
