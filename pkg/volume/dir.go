package volume

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
)

const (
	// format is the version of the record files that this release writes.
	format = 1

	// maxRecord bounds a record file, which is encoded: in JSON, one byte of a
	// version or an attribute becomes up to six.
	maxRecord = 4 << 20

	suffix   = ".json"
	bootFile = "boot_id"
	tempFile = "writing.tmp" // the one temporary file: writes take turns

	kernelBootID = "/proc/sys/kernel/random/boot_id"
)

// A Dir is a Store that outlives the process: one JSON file for each volume,
// in a folder of its own that only its user can read. It keeps all records in
// memory too. What it keeps is of use until the machine boots again, as mounts
// are; it belongs on a tmpfs, and does not wait for a disk to sync.
//
// A folder has one Dir at a time, until Close or the end of the process.
type Dir struct {
	path    string
	dropped []error
	memory  Memory

	writing sync.Mutex // held while folder and memory differ
	lock    *os.File   // the folder; nil once closed; guarded by writing
}

// errClosed is the error of a write after Close.
var errClosed = errors.New("the volume store is closed")

// An envelope is what a record file holds.
type envelope struct {
	Format int    `json:"format"`
	Record Record `json:"record"`
}

// OpenDir returns the store in the folder at path, which it makes if there is
// none. It refuses a folder that has files and is not a store, and one that
// another Dir, of this or another process, has open. Files in it that are of
// no use are removed; Dropped tells which.
func OpenDir(path string) (*Dir, error) {
	d := &Dir{path: path}
	err := d.open()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open volume store %s: %w", path, err), d.Close())
	}
	return d, nil
}

// Close lets another process open the folder. From then on Put and Delete
// fail, and the rest answers as before. It is idempotent.
func (d *Dir) Close() error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if d.lock == nil {
		return nil
	}
	err := d.lock.Close()
	d.lock = nil
	return err
}

// Dropped tells what OpenDir found and removed, or could not remove: records
// of another boot, whose mounts died with it, records that this release
// cannot read, and what is no record.
func (d *Dir) Dropped() []error { return slices.Clone(d.dropped) }

// Get returns the record of that ID, and whether there is one.
func (d *Dir) Get(id ID) (Record, bool) { return d.memory.Get(id) }

// List returns all records, ordered by ID.
func (d *Dir) List() []Record { return d.memory.List() }

// Len implements Store.
func (d *Dir) Len() int { return d.memory.Len() }

// Put keeps the record in place of any other of its ID, which must be
// non-empty UTF-8. It refuses a record that the next OpenDir would drop as too
// large. On error the other stays.
func (d *Dir) Put(record Record) error {
	err := record.ID.check()
	if err != nil {
		return err
	}
	data, err := json.Marshal(envelope{Format: format, Record: record})
	if err != nil {
		return fmt.Errorf("encode the record of volume %q: %w", record.ID, err)
	}
	if len(data) > maxRecord {
		return fmt.Errorf("keep the record of volume %q: as JSON it has %d bytes, and the limit is %d", record.ID, len(data), maxRecord)
	}
	d.writing.Lock()
	defer d.writing.Unlock()
	err = d.write(fileName(record.ID), data)
	if err != nil {
		return fmt.Errorf("keep the record of volume %q: %w", record.ID, err)
	}
	return d.memory.Put(record)
}

// Delete forgets the record of that ID, if there is one. On error it stays.
func (d *Dir) Delete(id ID) error {
	d.writing.Lock()
	defer d.writing.Unlock()
	if d.lock == nil {
		return fmt.Errorf("delete the record of volume %q: %w", id, errClosed)
	}
	err := os.Remove(filepath.Join(d.path, fileName(id)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete the record of volume %q: %w", id, err)
	}
	return d.memory.Delete(id)
}

// fileName returns the name of the ID's record file, whatever the ID holds.
func fileName(id ID) string {
	sum := sha256.Sum256([]byte(id))
	return hex.EncodeToString(sum[:]) + suffix
}

// write replaces the file of that name. On error it is as it was. The caller
// holds d.writing.
func (d *Dir) write(name string, data []byte) error {
	if d.lock == nil {
		return errClosed
	}
	temp := filepath.Join(d.path, tempFile)
	err := os.WriteFile(temp, data, 0o600)
	if err == nil {
		err = os.Rename(temp, filepath.Join(d.path, name))
	}
	if err != nil {
		_ = os.Remove(temp)
	}
	return err
}

// open prepares the folder and loads what it holds.
func (d *Dir) open() error {
	err := d.own()
	if err != nil {
		return err
	}
	boot, err := os.ReadFile(kernelBootID)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return err
	}
	of, err := os.ReadFile(filepath.Join(d.path, bootFile))
	fresh := errors.Is(err, fs.ErrNotExist)
	switch {
	case fresh && slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() != tempFile }):
		return errors.New("the folder is neither empty nor a volume store: use another one, or empty it")
	case err != nil && !fresh:
		return err
	}
	err = os.Chmod(d.path, 0o700)
	if err != nil {
		return err
	}
	d.load(entries, bytes.Equal(of, boot))
	return d.write(bootFile, boot) // last: until then, the next open drops the same
}

// own makes the folder if there is none, and locks it before anything in it is
// looked at. The lock is on the folder itself: it needs no file, and the
// kernel drops it with the process.
func (d *Dir) own() error {
	err := os.MkdirAll(d.path, 0o700)
	if err != nil {
		return err
	}
	d.lock, err = os.Open(d.path)
	if err != nil {
		return err
	}
	err = syscall.Flock(int(d.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.New("another process uses the folder: stop it, or use another folder")
	}
	return os.NewSyscallError("flock", err)
}

// load keeps the records among the entries, and drops everything else.
func (d *Dir) load(entries []fs.DirEntry, sameBoot bool) {
	for _, entry := range entries {
		if entry.Name() == bootFile {
			continue
		}
		record, err := d.read(entry, sameBoot)
		if err == nil {
			err = d.memory.Put(record)
		}
		if err != nil {
			d.drop(entry.Name(), err)
		}
	}
}

// drop removes the file of that name for the reason.
func (d *Dir) drop(name string, reason error) {
	path := filepath.Join(d.path, name)
	d.dropped = append(d.dropped, fmt.Errorf("%s: %w", path, reason))
	err := os.Remove(path)
	if err != nil {
		d.dropped = append(d.dropped, err)
	}
}

// read returns the record that the file of the entry holds, or why there is
// none. The error does not quote the file.
func (d *Dir) read(entry fs.DirEntry, sameBoot bool) (Record, error) {
	name := entry.Name()
	switch {
	case name == tempFile:
		return Record{}, errors.New("it is what an interrupted write left")
	case !entry.Type().IsRegular() || len(name) != len(fileName("")) || filepath.Ext(name) != suffix:
		return Record{}, errors.New("it is not a volume record")
	case !sameBoot:
		return Record{}, errors.New("it is of another boot, and its mount with it")
	}
	info, err := entry.Info()
	if err != nil {
		return Record{}, err
	}
	if info.Size() > maxRecord {
		return Record{}, fmt.Errorf("it has more than %d bytes", maxRecord)
	}
	data, err := os.ReadFile(filepath.Join(d.path, name))
	if err != nil {
		return Record{}, err
	}
	return decode(name, data)
}

// decode returns the record in data, the content of the file of that name.
func decode(name string, data []byte) (Record, error) {
	var version struct {
		Format int `json:"format"`
	}
	err := json.Unmarshal(data, &version)
	switch {
	case err != nil:
		return Record{}, errors.New("it is not JSON of a volume record")
	case version.Format != format:
		return Record{}, fmt.Errorf("its format is %d, and this release reads %d", version.Format, format)
	}
	var e envelope
	err = json.Unmarshal(data, &e)
	switch {
	case err != nil:
		return Record{}, errors.New("it is not JSON of a volume record")
	case fileName(e.Record.ID) != name:
		return Record{}, errors.New("its name is not that of its volume")
	default:
		return e.Record, nil
	}
}
