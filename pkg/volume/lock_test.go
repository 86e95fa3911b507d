package volume_test

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/volume"
)

func TestAFolderHasOneStoreAtATime(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	want := full("csi-1")
	put(t, d, want)
	before := dirNames(t, path)
	if _, err := volume.OpenDir(path); err == nil || !strings.Contains(err.Error(), "another process uses the folder") || !strings.Contains(err.Error(), path) {
		t.Errorf("a second OpenDir: error %v, want one that names the folder and says that it is in use", err)
	}
	if diff := cmp.Diff(before, dirNames(t, path)); diff != "" {
		t.Errorf("a second OpenDir changed the folder (-before +after):\n%s", diff)
	}
	put(t, d, want)
	closeDir(t, d)
	wantList(t, openDir(t, path), want)
}

func dirNames(t testing.TB, path string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestAClosedStoreWritesNothingAndStillAnswers(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	want := full("csi-1")
	put(t, d, want)
	closeDir(t, d)
	closeDir(t, d)
	next := openDir(t, path)
	for name, write := range map[string]func() error{
		"Put of a new record":         func() error { return d.Put(full("csi-2")) },
		"Put of another record":       func() error { return d.Put(full("csi-1")) },
		"Delete of the record":        func() error { return d.Delete("csi-1") },
		"Delete of what is not there": func() error { return d.Delete("csi-2") },
	} {
		if err := write(); err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s: error %v, want one that says closed", name, err)
		}
	}
	wantList(t, d, want)
	closeDir(t, next)
	wantList(t, openDir(t, path), want)
}

// TestAFolderIsFreeOnceItsProcessIsKilled holds a folder in a process of its own.
func TestAFolderIsFreeOnceItsProcessIsKilled(t *testing.T) {
	const variable = "KEYMOUNT_TEST_HOLD"
	if path := os.Getenv(variable); path != "" { // in that process
		openDir(t, path)
		_, _ = os.Stdout.WriteString("open\n")
		_, _ = os.Stdin.Read(make([]byte, 1)) // until it is killed
		return
	}
	path := t.TempDir()
	holder := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	holder.Env = append(os.Environ(), variable+"="+path)
	if _, err := holder.StdinPipe(); err != nil { // never closed while the process runs
		t.Fatal(err)
	}
	out, err := holder.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		t.Fatalf("the process says %q, %v", line, err)
	}
	if _, err := volume.OpenDir(path); err == nil {
		t.Error("OpenDir of a folder that another process has open: no error")
	}
	if err := holder.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = holder.Wait()
	openDir(t, path)
}

// TestWhatPutTakesTheNextOpenKeeps has records whose JSON is at the limit, and
// bytes that grow sixfold in JSON.
func TestWhatPutTakesTheNextOpenKeeps(t *testing.T) {
	const limit = 4 << 20
	record := func(version string) volume.Record {
		return volume.Record{ID: "csi-1", Held: provider.Held{Versions: provider.Versions{"o": version}}}
	}
	path := t.TempDir()
	d := openDir(t, path)
	small := record("1")
	put(t, d, small)
	file, err := os.ReadFile(fileOf(t, path))
	if err != nil {
		t.Fatal(err)
	}
	fits := limit - len(file) + len("1")
	for name, version := range map[string]string{
		"one byte too many":           strings.Repeat("v", fits+1),
		"one byte that becomes six":   strings.Repeat("v", fits-5) + "<",
		"a fifth of the limit in all": strings.Repeat("<", limit/5),
	} {
		if err := d.Put(record(version)); err == nil || !strings.Contains(err.Error(), "the limit is 4194304") {
			t.Errorf("Put of %s: error %v, want one that names the limit", name, shorten(err))
		}
		wantList(t, d, small)
	}
	largest := record(strings.Repeat("v", fits))
	put(t, d, largest)
	if info, err := os.Stat(fileOf(t, path)); err != nil || info.Size() != limit {
		t.Errorf("the largest record has %d bytes, %v, want %d", info.Size(), err, limit)
	}
	closeDir(t, d)
	wantList(t, openDir(t, path), largest)
}

func shorten(err error) string {
	if err == nil {
		return "none"
	}
	return err.Error()[:min(200, len(err.Error()))]
}
