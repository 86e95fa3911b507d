package crash

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/mount-utils"
)

// mustBeWhole checks what the dead driver left: a published volume shows one
// whole generation, an unpublished one shows nothing.
func (n *node) mustBeWhole(round int) {
	n.t.Helper()
	mounts := n.mounts()
	for i, s := range n.states {
		target := n.target(i)
		switch s {
		case absent:
			if _, err := os.Lstat(target); !errors.Is(err, fs.ErrNotExist) || mounts[target] != 0 {
				n.t.Errorf("round %d: unpublished volume %d is left: %v, %d mounts", round, i, err, mounts[target])
			}
		case published:
			if mounts[target] != 1 {
				n.t.Errorf("round %d: published volume %d has %d mounts", round, i, mounts[target])
			}
			n.mustShowOneGeneration(round, i)
			if entries, err := os.ReadDir(target); err != nil || len(untidy(entries)) > 0 {
				n.cut["rotation"]++
				n.store.Put("secret", []byte(n.shown[i])) // back to what the volume shows: nothing to write, and yet something to tidy
			}
		case publishing:
			n.cut["publish"]++
		case removing:
			n.cut["unpublish"]++
		}
	}
}

func (n *node) mustShowOneGeneration(round, i int) {
	n.t.Helper()
	seen := map[string]int{}
	for f := range filesEach {
		content, err := os.ReadFile(filepath.Join(n.target(i), fmt.Sprintf("dir%d/file%d", f%2, f)))
		if err != nil {
			n.t.Errorf("round %d: volume %d: %v", round, i, err)
			return
		}
		seen[string(content)]++
	}
	for stamp := range seen {
		if len(seen) != 1 || !n.stamps[stamp] {
			n.t.Errorf("round %d: volume %d shows %d generations at once", round, i, len(seen))
		}
		if n.shown[i] != "" && n.shown[i] != stamp {
			n.rotations++
		}
		n.shown[i] = stamp
	}
}

// mustBecomeTidy waits until nothing is left of what the last kill cut short:
// a published volume has one generation and its links, and the state folder has
// one record for each and nothing half written. Nothing changes in the store
// meanwhile.
func (n *node) mustBecomeTidy(round int) {
	n.t.Helper()
	deadline := time.Now().Add(patience)
	for {
		left := n.untidy()
		switch {
		case len(left) == 0:
			return
		case time.Now().After(deadline):
			n.t.Errorf("round %d: %v after the restart there is still %q", round, patience, left)
			return
		}
		pause(n.t.Context(), 2*time.Millisecond)
	}
}

// untidy names what does not belong into volumes and state folder.
func (n *node) untidy() (left []string) {
	records := 0
	for i, s := range n.states {
		if s != published {
			continue
		}
		records++
		entries, err := os.ReadDir(n.target(i))
		for _, name := range untidy(entries) {
			left = append(left, filepath.Join(n.target(i), name))
		}
		if err != nil {
			left = append(left, err.Error())
		}
	}
	state := filepath.Join(n.dir, "state", "volumes")
	entries, err := os.ReadDir(state)
	for _, entry := range entries {
		switch {
		case filepath.Ext(entry.Name()) == ".json":
			records--
		case entry.Name() != "boot_id":
			left = append(left, filepath.Join(state, entry.Name()))
		}
	}
	if err != nil || records != 0 {
		left = append(left, fmt.Sprintf("%s: %d records are missing, error %v", state, records, err))
	}
	return left
}

// untidy names the entries of a volume beyond the link to the generation, the
// generation, and the links into it.
func untidy(entries []fs.DirEntry) (left []string) {
	known := []string{"..data", "dir0", "dir1"}
	generations := 0
	for _, entry := range entries {
		switch name := entry.Name(); {
		case entry.IsDir() && strings.HasPrefix(name, ".."):
			if generations++; generations > 1 {
				left = append(left, name)
			}
		case !slices.Contains(known, name):
			left = append(left, name)
		}
	}
	return left
}

// mustKeepTheSecret searches everything outside of the volumes for the secret,
// in clear and encoded: the whole folder of the node, with the log, and with
// what the mounts cover.
func (n *node) mustKeepTheSecret(round int) {
	n.t.Helper()
	needles := encodings(n.canary)
	files := 0
	err := filepath.WalkDir(n.bare, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		text, err := os.ReadFile(path)
		text = append(text, path...)
		if slices.ContainsFunc(needles, func(needle []byte) bool { return bytes.Contains(text, needle) }) {
			n.t.Errorf("round %d: the secret is in %s", round, path)
		}
		return err
	})
	if err != nil || files == 0 {
		n.t.Errorf("round %d: searched %d files, error %v", round, files, err)
	}
}

// encodings returns the forms in which a secret that contains text may show.
// In base64 text looks different at each of three offsets, but for its ends.
func encodings(text string) [][]byte {
	found := [][]byte{[]byte(text), []byte(hex.EncodeToString([]byte(text))), []byte(strings.ToUpper(hex.EncodeToString([]byte(text))))}
	for offset := range 3 {
		for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
			encoded := alphabet.EncodeToString(append(make([]byte, offset), text...))
			found = append(found, []byte(encoded[4:len(encoded)-4]))
		}
	}
	return found
}

func TestEncodingsFindWhatIsEncodedAmongOtherText(t *testing.T) {
	secret := rand.Text()
	for _, around := range []string{"", "a", "ab", "abc"} {
		text := []byte(around + secret + around)
		for _, form := range []string{string(text), hex.EncodeToString(text), fmt.Sprintf("%X", text), base64.StdEncoding.EncodeToString(text), base64.URLEncoding.EncodeToString(text)} {
			if !slices.ContainsFunc(encodings(secret), func(needle []byte) bool { return strings.Contains(form, string(needle)) }) {
				t.Errorf("no encoding of %q is found in %q", secret, form)
			}
		}
	}
}

// mounts counts the mounts at each target.
func (n *node) mounts() map[string]int {
	n.t.Helper()
	table, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		n.t.Fatal(err)
	}
	found := map[string]int{}
	for _, m := range table {
		if strings.HasPrefix(m.MountPoint, n.dir+"/") {
			found[m.MountPoint]++
		}
	}
	return found
}

func (n *node) removeAll() {
	n.t.Helper()
	for i := range volumes {
		if err := n.unpublish(n.t.Context(), i); err != nil {
			n.t.Errorf("unpublish %d: %v", i, err)
		}
	}
}

func (n *node) mustBeEmpty() {
	n.t.Helper()
	if mounts := n.mounts(); len(mounts) != 0 {
		n.t.Errorf("mounts are left: %v", mounts)
	}
	for i := range volumes {
		if _, err := os.Lstat(n.target(i)); !errors.Is(err, fs.ErrNotExist) {
			n.t.Errorf("target %d is left: %v", i, err)
		}
	}
	records, err := filepath.Glob(filepath.Join(n.dir, "state", "volumes", "*.json"))
	if err != nil || len(records) != 0 {
		n.t.Errorf("records are left: %v, %v", records, err)
	}
}
