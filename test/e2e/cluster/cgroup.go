package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

const cgroups = "/sys/fs/cgroup"

// unified reports whether the machine has cgroup v2 alone.
func unified() bool { return exists(cgroups + "/cgroup.controllers") }

// cgroupFolders returns the folders of a run: one with cgroup v2, one in each
// hierarchy with v1, of which one may be a v2 without controllers.
func cgroupFolders(l layout) ([]string, error) {
	if unified() {
		return []string{filepath.Join(cgroups, l.cgroup())}, nil
	}
	hierarchies, err := os.ReadDir(cgroups)
	if err != nil {
		return nil, err
	}
	var folders []string
	for _, h := range hierarchies {
		if h.IsDir() {
			folders = append(folders, filepath.Join(cgroups, h.Name(), l.cgroup()))
		}
	}
	return folders, nil
}

func makeCgroups(l layout) error {
	folders, err := cgroupFolders(l)
	if err != nil {
		return err
	}
	for _, folder := range folders {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return err
		}
		if err := inheritCPUs(folder); err != nil {
			return err
		}
	}
	return nil
}

// inheritCPUs gives a new folder of the v1 controller cpuset what it needs
// before a process may join.
func inheritCPUs(folder string) error {
	if unified() || filepath.Base(filepath.Dir(folder)) != "cpuset" {
		return nil
	}
	for _, setting := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(folder), setting))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, setting), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func removeCgroups(l layout) error {
	folders, err := cgroupFolders(l)
	for _, folder := range folders {
		below, walking := foldersBelow(folder)
		err = errors.Join(err, walking)
		for _, f := range slices.Backward(below) {
			if removing := os.Remove(f); !errors.Is(removing, fs.ErrNotExist) {
				err = errors.Join(err, removing)
			}
		}
	}
	return err
}

// foldersBelow returns a folder and all those in it, parents first.
func foldersBelow(top string) (folders []string, err error) {
	err = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case d.IsDir():
			folders = append(folders, path)
		}
		return nil
	})
	return folders, err
}

// contained returns the processes of all containers.
func contained(l layout) ([]int, error) {
	top := filepath.Join(cgroups, "pids", l.cgroup())
	if unified() {
		top = filepath.Join(cgroups, l.cgroup())
	}
	folders, err := foldersBelow(top)
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, folder := range folders {
		content, err := os.ReadFile(filepath.Join(folder, "cgroup.procs"))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it ended just now
		}
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(string(content)) {
			pid, err := strconv.Atoi(field)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", folder, err)
			}
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
