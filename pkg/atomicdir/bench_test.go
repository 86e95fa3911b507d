package atomicdir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkWrite compares Write with the bare system calls that have the same
// effect. The metric "x-raw" is the time of Write divided by theirs. Time is
// meant to be spent in memory: see memDir.
func BenchmarkWrite(b *testing.B) {
	for _, n := range []int{1, 5, 20} {
		odd, even := benchFiles(n, 'o'), benchFiles(n, 'e')
		b.Run(fmt.Sprintf("first/%d", n), func(b *testing.B) {
			dir := memDir(b)
			compare(b, func(int) error {
				_, err := Write(dir, odd, nil)
				return err
			}, func(int) error { return errors.Join(raw(dir, "..gen0", odd, true)) }, dir)
		})
		b.Run(fmt.Sprintf("changed/%d", n), func(b *testing.B) {
			dir, rawDir := memDir(b), memDir(b)
			err := raw(rawDir, "..gen0", even, true)
			if err != nil {
				b.Fatal(err)
			}
			compare(b, func(i int) error {
				changed, err := Write(dir, [][]File{odd, even}[i%2], nil)
				if !changed {
					err = errors.Join(err, errors.New("not changed"))
				}
				return err
			}, func(i int) error {
				if err := raw(rawDir, fmt.Sprintf("..gen%d", i+1), [][]File{odd, even}[i%2], false); err != nil {
					return err
				}
				return rawRemove(rawDir, fmt.Sprintf("..gen%d", i), odd)
			}, "")
		})
		b.Run(fmt.Sprintf("unchanged/%d", n), func(b *testing.B) {
			dir := memDir(b)
			if _, err := Write(dir, odd, nil); err != nil {
				b.Fatal(err)
			}
			b.ReportAllocs()
			for b.Loop() {
				if changed, err := Write(dir, odd, nil); changed || err != nil {
					b.Fatal(changed, err)
				}
			}
		})
	}
}

// compare times both in turns, so that both see the same machine. If wipe is
// set, that directory is emptied before each, untimed.
func compare(b *testing.B, ours, raw func(i int) error, wipe string) {
	b.ReportAllocs()
	var spent [2]time.Duration
	for i := 0; b.Loop(); i++ {
		for k, f := range []func(int) error{ours, raw} {
			if wipe != "" {
				old, _ := filepath.Glob(filepath.Join(wipe, "*"))
				for _, path := range old {
					if err := os.RemoveAll(path); err != nil {
						b.Fatal(err)
					}
				}
			}
			start := time.Now()
			err := f(i)
			spent[k] += time.Since(start)
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(spent[0].Nanoseconds())/float64(b.N), "write-ns/op")
	b.ReportMetric(float64(spent[1].Nanoseconds())/float64(b.N), "raw-ns/op")
	b.ReportMetric(float64(spent[0])/float64(spent[1]), "x-raw")
}

func benchFiles(n int, fill byte) []File {
	var files []File
	for i := range n {
		data := make([]byte, 1024)
		data[len(data)-1] = fill
		files = append(files, File{Path: fmt.Sprintf("file%d", i), Mode: 0o644, Data: data})
	}
	return files
}

// raw makes the calls that nobody can do without.
func raw(path, generation string, files []File, links bool) error {
	dir, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	errs := []error{err, unix.Mkdirat(dir, generation, 0o755)}
	gen, err := unix.Openat(dir, generation, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	errs = append(errs, err)
	for _, f := range files {
		fd, err := unix.Openat(gen, f.Path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0)
		errs = append(errs, err, unix.Fchmod(fd, 0o644))
		_, err = unix.Write(fd, f.Data)
		errs = append(errs, err, unix.Close(fd))
		if links {
			errs = append(errs, unix.Symlinkat("..data/"+f.Path, dir, f.Path))
		}
	}
	errs = append(errs, unix.Symlinkat(generation, dir, "..data_tmp"), unix.Renameat(dir, "..data_tmp", dir, "..data"))
	return errors.Join(append(errs, unix.Close(gen), unix.Close(dir))...)
}

func rawRemove(path, generation string, files []File) error {
	gen, err := unix.Open(filepath.Join(path, generation), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	errs := []error{err}
	for _, f := range files {
		errs = append(errs, unix.Unlinkat(gen, f.Path, 0))
	}
	return errors.Join(append(errs, unix.Close(gen), unix.Rmdir(filepath.Join(path, generation)))...)
}
