package file

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

const (
	// settleTime is how old a change must be before the attributes of a file
	// tell it from the next change: the clocks of some file systems tick once
	// in two seconds.
	settleTime = 3 * time.Second
	// maxVersions bounds the memory for versions.
	maxVersions = 1 << 14
)

// versions makes the versions of sources, and remembers those of files that
// have not changed since. It keeps no content.
type versions struct {
	key    [sha256.Size]byte
	settle time.Duration
	mu     sync.Mutex
	cache  map[string]cached // recipe -> version; guarded by mu
}

type cached struct {
	mark    mark
	version string
}

func (v *versions) init() error {
	v.settle = settleTime
	v.cache = make(map[string]cached)
	_, err := rand.Read(v.key[:])
	return err
}

// recipe says what a volume makes of a source.
func (s source) recipe() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%q %q", s.mark.id, s.mark.names)
	for _, o := range s.objects {
		fmt.Fprintf(&b, " %q %q %q %o", o.name, o.key, o.encoding, o.mode)
	}
	return b.String()
}

// known returns the versions of the sources if it is sure of all of them.
func (v *versions) known(sources []source) (provider.Versions, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	known := make(provider.Versions, len(sources))
	for _, s := range sources {
		recipe := s.recipe()
		entry, ok := v.cache[recipe]
		switch {
		case s.mark.file == "":
			known[s.mark.id] = v.sum(recipe, make([]*secret.Value, len(s.objects)))
		case !ok || entry.mark != s.mark:
			return nil, false
		default:
			known[s.mark.id] = entry.version
		}
	}
	return known, true
}

// add returns the version of a source with its contents.
func (v *versions) add(s source, contents []*secret.Value) string {
	recipe := s.recipe()
	version := v.sum(recipe, contents)
	if s.mark.file == "" || time.Since(time.Unix(s.mark.stat.ctime.Unix())) < v.settle {
		return version
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.cache) >= maxVersions {
		clear(v.cache)
	}
	v.cache[recipe] = cached{mark: s.mark, version: version}
	return version
}

// sum authenticates the recipe and the contents, of which nil is not there.
// The recipe has the object ID, so that equal values of different objects
// have different versions; and the names and modes, so that a class that
// changes them changes the version.
func (v *versions) sum(recipe string, contents []*secret.Value) string {
	mac := hmac.New(sha256.New, v.key[:])
	write := func(text []byte) {
		_ = binary.Write(mac, binary.BigEndian, int64(len(text)))
		mac.Write(text)
	}
	write([]byte(recipe))
	for _, content := range contents {
		if content == nil {
			_ = binary.Write(mac, binary.BigEndian, int64(-1))
			continue
		}
		write(content.Reveal())
	}
	return hex.EncodeToString(mac.Sum(nil)[:16])
}
