package volume_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/volume"
)

// full returns a record with a value in every field.
func full(id volume.ID) volume.Record {
	group := int64(2000)
	now := time.Now().Round(0) // as JSON keeps it: without the monotonic clock
	return volume.Record{
		ID:         id,
		Target:     "/var/lib/kubelet/pods/1/volumes/" + rand.Text(),
		Mount:      1<<63 + 1,
		Class:      class.Name{Namespace: "shop", Name: "app"},
		Revision:   "r1",
		Provider:   "file",
		Pod:        provider.Pod{Namespace: "shop", Name: "app-0", UID: "u1", ServiceAccount: "app"},
		Attributes: map[string]string{"a": "1", "": "<&>\u2028\x00"},
		Group:      &group,
		Held: provider.Held{
			Versions: provider.Versions{"db": "v1"},
			Lease:    provider.Lease{ID: "lease", Expires: now.Add(time.Hour)},
		},
		Secretive: true,
		Published: now,
		Refreshed: now.Add(time.Second),
		Due:       now.Add(time.Minute),
		Expires:   now.Add(time.Hour),
		Stale:     volume.Staleness{Since: now, Failures: 3, Reason: "Denied", Message: "no"},
	}
}

func openDir(t testing.TB, path string) *volume.Dir {
	t.Helper()
	d, err := volume.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeDir(t, d) })
	return d
}

func closeDir(t testing.TB, d *volume.Dir) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// putDir puts records into a store that it opens and closes.
func putDir(t testing.TB, path string, records ...volume.Record) {
	t.Helper()
	d := openDir(t, path)
	put(t, d, records...)
	closeDir(t, d)
}

func put(t testing.TB, s volume.Store, records ...volume.Record) {
	t.Helper()
	for _, record := range records {
		if err := s.Put(record); err != nil {
			t.Fatal(err)
		}
	}
}

func wantList(t testing.TB, s volume.Store, want ...volume.Record) {
	t.Helper()
	if want == nil {
		want = []volume.Record{}
	}
	if diff := cmp.Diff(want, s.List()); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
}

// hostile returns IDs most of which no file name could hold, in order.
func hostile() []volume.ID {
	ids := []volume.ID{"\x00", " ", "..", "../../etc/passwd", "/", "a/b", "boot_id", "csi-1", "csi-1.json", "ü\u2028\n", volume.ID(strings.Repeat("ü", 5000))}
	slices.Sort(ids)
	return ids
}

// contract is what every Store does.
var contract = []struct {
	name string
	run  func(t *testing.T, s volume.Store)
}{
	{"an empty store has nothing", func(t *testing.T, s volume.Store) {
		if got, ok := s.Get("csi-1"); ok {
			t.Errorf("Get = %v, want nothing", got)
		}
		if err := s.Delete("csi-1"); err != nil {
			t.Errorf("Delete of what is not there: %v", err)
		}
		wantList(t, s)
	}},
	{"a record comes back as it was put", func(t *testing.T, s volume.Store) {
		want := full("csi-1")
		put(t, s, want)
		got, ok := s.Get("csi-1")
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("Get: %v (-want +got):\n%s", ok, diff)
		}
	}},
	{"a later record replaces an earlier", func(t *testing.T, s volume.Store) {
		first, last := full("csi-1"), full("csi-1")
		put(t, s, first, last)
		wantList(t, s, last)
	}},
	{"a deleted record is gone", func(t *testing.T, s volume.Store) {
		one, two := full("csi-1"), full("csi-2")
		put(t, s, one, two)
		if err := s.Delete("csi-1"); err != nil {
			t.Fatal(err)
		}
		if got, ok := s.Get("csi-1"); ok {
			t.Errorf("Get = %v, want nothing", got)
		}
		wantList(t, s, two)
	}},
	{"List is ordered, whatever the IDs hold", func(t *testing.T, s volume.Store) {
		var want []volume.Record
		for _, id := range hostile() {
			want = append(want, full(id))
		}
		for i := range want {
			put(t, s, want[len(want)-1-i])
		}
		wantList(t, s, want...)
	}},
	{"an ID that cannot be kept is refused", func(t *testing.T, s volume.Store) {
		for _, id := range []volume.ID{"", "\xff"} {
			if err := s.Put(full(id)); err == nil {
				t.Errorf("Put of ID %q: no error", id)
			}
		}
		wantList(t, s)
	}},
	{"it is safe for concurrent use", func(t *testing.T, s volume.Store) {
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 25 {
					record := full(volume.ID(fmt.Sprint("csi-", j%5)))
					put(t, s, record)
					s.Get(record.ID)
					s.List()
					if i%2 == 0 {
						_ = s.Delete(record.ID)
					}
				}
			})
		}
		wg.Wait()
	}},
}

func TestMemory(t *testing.T) {
	for _, test := range contract {
		t.Run(test.name, func(t *testing.T) { test.run(t, new(volume.Memory)) })
	}
}

func TestDir(t *testing.T) {
	for _, test := range contract {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "run", "volumes")
			s := openDir(t, path)
			test.run(t, s)
			closeDir(t, s)
			again := openDir(t, path)
			wantList(t, again, s.List()...)
			if dropped := again.Dropped(); dropped != nil {
				t.Errorf("Dropped = %v, want nothing", dropped)
			}
		})
	}
}

// fileOf returns the path of the only record file.
func fileOf(t testing.TB, path string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(path, "*.json"))
	if err != nil || len(files) != 1 {
		t.Fatalf("record files %v, %v, want one", files, err)
	}
	return files[0]
}

func TestDirKeepsItsFilesPrivate(t *testing.T) {
	path := t.TempDir()
	if err := os.Chmod(path, 0o777); err != nil {
		t.Fatal(err)
	}
	put(t, openDir(t, path), full("csi-1"))
	for file, want := range map[string]os.FileMode{path: os.ModeDir | 0o700, fileOf(t, path): 0o600} {
		info, err := os.Stat(file)
		if err != nil || info.Mode() != want {
			t.Errorf("mode of %s = %v, %v, want %v", file, info.Mode(), err, want)
		}
	}
}

func TestDirDropsWhatIsOfNoUse(t *testing.T) {
	canary := rand.Text()
	overwrite := func(content string) func(t *testing.T, file string) {
		return func(t *testing.T, file string) {
			if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	beside := func(name string) func(t *testing.T, file string) {
		return func(t *testing.T, file string) {
			if err := os.Rename(file, filepath.Join(filepath.Dir(file), name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name   string
		damage func(t *testing.T, file string)
		want   string
	}{
		{"an empty file", overwrite(""), "not JSON of a volume record"},
		{"a torn file", overwrite(`{"format":1,"record":{"id":"` + canary), "not JSON of a volume record"},
		{"another type", overwrite(`{"format":1,"record":{"id":["` + canary + `"]}}`), "not JSON of a volume record"},
		{"a newer format", overwrite(`{"format":2,"record":"` + canary + `"}`), "its format is 2, and this release reads 1"},
		{"no format", overwrite(`{}`), "its format is 0"},
		{"a record under another's name", overwrite(`{"format":1,"record":{"id":"other"}}`), "its name is not that of its volume"},
		{"a file too big to be one", func(t *testing.T, file string) {
			if err := os.Truncate(file, 5<<20); err != nil {
				t.Fatal(err)
			}
		}, "more than 4194304 bytes"},
		{"what an interrupted write left", beside("writing.tmp"), "an interrupted write"},
		{"an alien file", beside("notes.txt"), "not a volume record"},
		{"an alien JSON file", beside("notes.json"), "not a volume record"},
		{"a link", func(t *testing.T, file string) {
			if err := os.Remove(file); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("boot_id", file); err != nil {
				t.Fatal(err)
			}
		}, "not a volume record"},
		{"a record of another boot", func(t *testing.T, file string) {
			overwrite("another\n")(t, filepath.Join(filepath.Dir(file), "boot_id"))
		}, "of another boot"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := t.TempDir()
			putDir(t, path, full("csi-1"))
			test.damage(t, fileOf(t, path))
			d := openDir(t, path)
			wantList(t, d)
			dropped := d.Dropped()
			if len(dropped) != 1 || !strings.Contains(dropped[0].Error(), test.want) || strings.Contains(dropped[0].Error(), canary) {
				t.Errorf("Dropped = %v, want one error with %q that does not quote", dropped, test.want)
			}
			entries, err := os.ReadDir(path)
			if err != nil || len(entries) != 1 {
				t.Errorf("left %v, %v, want only the boot ID", entries, err)
			}
			closeDir(t, d)
			if again := openDir(t, path).Dropped(); again != nil {
				t.Errorf("Dropped by the next open = %v, want nothing", again)
			}
		})
	}
}

func TestDirKeepsTheGoodBesideTheBad(t *testing.T) {
	path := t.TempDir()
	want := full("csi-1")
	putDir(t, path, want)
	alien := filepath.Join(path, "folder", "file")
	if err := os.MkdirAll(alien, 0o700); err != nil {
		t.Fatal(err)
	}
	d := openDir(t, path)
	wantList(t, d, want)
	if got := d.Dropped(); len(got) != 2 { // that it is alien, and that it is not empty
		t.Errorf("Dropped = %v, want two errors about the folder", got)
	}
	if _, err := os.Stat(alien); err != nil {
		t.Errorf("a folder that is not empty: %v, want it left alone", err)
	}
}

func TestOpenDirRefusesAFolderOfSomethingElse(t *testing.T) {
	path := t.TempDir()
	file := filepath.Join(path, "passwd")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := volume.OpenDir(path); err == nil || !strings.Contains(err.Error(), "use another one") {
		t.Errorf("OpenDir: error %v, want it refused", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Errorf("the folder's file: %v, want it left alone", err)
	}
	if _, err := volume.OpenDir(file); err == nil {
		t.Error("OpenDir of a file: no error")
	}
}

func TestDirKeepsTheOldRecordWhenAWriteFails(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	want := full("csi-1")
	put(t, d, want)
	// A folder in the way of the temporary file, which also root cannot write.
	obstacle := filepath.Join(path, "writing.tmp", "x")
	if err := os.MkdirAll(obstacle, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(full("csi-1")); err == nil {
		t.Error("Put: no error")
	}
	if err := d.Put(full("csi-2")); err == nil {
		t.Error("Put of a new volume: no error")
	}
	wantList(t, d, want)
	if err := os.RemoveAll(filepath.Dir(obstacle)); err != nil {
		t.Fatal(err)
	}
	put(t, d, full("csi-2"))
	if err := d.Delete("csi-2"); err != nil {
		t.Fatal(err)
	}
	closeDir(t, d)
	wantList(t, openDir(t, path), want)
}

func TestDirKeepsTheRecordWhenARenameOrARemovalFails(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	want := full("csi-1")
	put(t, d, want)
	file := fileOf(t, path)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(file, "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := d.Put(full("csi-1")); err == nil {
		t.Error("Put: no error")
	}
	if err := d.Delete("csi-1"); err == nil {
		t.Error("Delete: no error")
	}
	wantList(t, d, want)
	if _, err := os.Stat(filepath.Join(path, "writing.tmp")); !os.IsNotExist(err) {
		t.Errorf("temporary file after a failed rename: %v, want none", err)
	}
}

func TestDirReadsNeverTouchTheDisk(t *testing.T) {
	path := t.TempDir()
	d := openDir(t, path)
	want := full("csi-1")
	put(t, d, want)
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	wantList(t, d, want)
	if err := d.Delete("csi-1"); err != nil {
		t.Errorf("Delete of a record whose file has gone: %v", err)
	}
	wantList(t, d)
}

// raw is a Put without a store: what the file system costs.
func BenchmarkPut(b *testing.B) {
	b.Run("store", func(b *testing.B) {
		d := openDir(b, b.TempDir())
		record := full("csi-1")
		for b.Loop() {
			put(b, d, record)
		}
	})
	b.Run("raw", func(b *testing.B) {
		temp, file := filepath.Join(b.TempDir(), "temp"), filepath.Join(b.TempDir(), "file")
		data, err := json.Marshal(full("csi-1"))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := os.WriteFile(temp, data, 0o600); err != nil {
				b.Fatal(err)
			}
			if err := os.Rename(temp, file); err != nil {
				b.Fatal(err)
			}
		}
	})
}
