package volume

import (
	"encoding/json"
	"regexp"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// refusal matches all that is ever said of a record that cannot be used: of
// what it holds, no more than the number of its format.
var refusal = regexp.MustCompile(`^(it is not JSON of a volume record|its format is -?\d+, and this release reads 1|its name is not that of its volume)$`)

// FuzzRecord gives arbitrary bytes as a record file: it is refused without
// being shown, or it is the record of the file's name and is kept as it is.
func FuzzRecord(f *testing.F) {
	for _, seed := range []string{
		``, `null`, `{}`, `[]`, `{"format":2}`, `{"format":1}`, `{"format":1,"record":null}`, `{"format":"1"}`, `{"format":1e99}`, `{"format":1,"record":{"id":1}}`,
		`{"format":1,"record":{"id":"a","target":"/x","mount":18446744073709551615,"class":{"Namespace":"n","Name":"c"},"attributes":{"":"\ud800"},"group":0}}`,
		`{"format":1,"record":{"id":"a","held":{"Versions":{"db":"1"},"Lease":{"ID":"l","Expires":"2030-01-01T00:00:00+01:00"}},"stale":{"failures":1,"since":"2030-01-01T00:00:00Z"}}}`,
		`{"format":1,"record":{"id":"a","published":"2030-01-01T00:00:00.123456789-23:59","due":"0001-01-01T00:00:00Z"}}`,
	} {
		f.Add("", []byte(seed))
		f.Add("a", []byte(seed))
	}
	f.Fuzz(func(t *testing.T, id string, data []byte) {
		name := fileName(ID(id))
		record, err := decode(name, data)
		if err != nil {
			if !refusal.MatchString(err.Error()) {
				t.Errorf("the refusal is %q", err)
			}
			return
		}
		if fileName(record.ID) != name {
			t.Errorf("the file of %q has the record of %q", id, record.ID)
		}
		if record.Stale.IsZero() {
			record.Stale = Staleness{} // the rest of it means nothing
		}
		text, err := json.Marshal(envelope{Format: format, Record: record})
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := decode(name, text)
		if diff := cmp.Diff(record, again, cmp.Comparer(time.Time.Equal), cmpopts.EquateEmpty()); err != nil || diff != "" {
			t.Errorf("the record changes when it is kept: %v\n%s", err, diff)
		}
	})
}
