package plugin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc/metadata"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// maxWarnings bounds the text that is parsed: as many warnings of the longest
// as a bundle may have, each byte of them escaped, have less.
const maxWarnings = 256 << 10

// errNoWarnings does not say what the parser does, which quotes.
var errNoWarnings = errors.New("metadata " + metaWarnings + ": want a JSON list of objects with reason and message")

// decodeWarnings reads a JSON list of warnings, which are yet to be validated;
// nothing means that there are none.
func decodeWarnings(md metadata.MD) ([]provider.Warning, error) {
	text := first(md, metaWarnings)
	switch {
	case text == "":
		return nil, nil
	case len(text) > maxWarnings:
		return nil, fmt.Errorf("metadata %s has %d bytes: want at most %d", metaWarnings, len(text), maxWarnings)
	}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	var warnings []provider.Warning
	if err := decoder.Decode(&warnings); err != nil {
		return nil, errNoWarnings
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errNoWarnings
	}
	if len(warnings) == 0 {
		return nil, nil
	}
	return warnings, nil
}

// maskWarnings masks the secrets in valid warnings, which stay valid.
func maskWarnings(warnings []provider.Warning, secrets []secret.Value) {
	for i := range warnings {
		masked := mask(warnings[i].Message, secrets)
		if len(masked) > provider.MaxWarning {
			masked = masked[:provider.MaxWarning]
		}
		warnings[i].Message = strings.ToValidUTF8(masked, "")
	}
}
