package sandbox

import (
	"os"
	"path/filepath"
	"strconv"

	"github.com/landlock-lsm/go-landlock/landlock"
	"github.com/landlock-lsm/go-landlock/landlock/syscall"
)

// Files are what a process may open: a folder stands for all that is below it,
// and a file for the folder that it is in, since who replaces a file makes a
// new one there. What does not exist when the process enters the sandbox stays
// closed to it.
type Files struct {
	Read  []string // files and folders
	Write []string // folders, in which it may also make and remove files
}

// system are the files by which every program finds hosts, authorities of
// certificates and the local time.
var system = []string{
	"/etc/hosts", "/etc/resolv.conf", "/etc/nsswitch.conf", "/run/systemd/resolve", "/etc/localtime", "/usr/share/zoneinfo",
	"/etc/ssl", "/etc/pki", "/etc/ca-certificates", "/usr/share/ca-certificates", "/usr/local/share/ca-certificates",
	"/proc/self", // what this process runs with
}

const (
	readFile = syscall.AccessFSReadFile
	read     = readFile | syscall.AccessFSReadDir
	write    = read | syscall.AccessFSWriteFile | syscall.AccessFSTruncate | syscall.AccessFSMakeReg | syscall.AccessFSMakeSym | syscall.AccessFSRemoveFile
)

// restrict keeps the process from all other files, from listening on TCP ports,
// and from signals and abstract sockets of other processes, as far as the
// kernel has Landlock for that. It returns the version that the kernel has.
func (f *Files) restrict() (version string, err error) {
	if f == nil {
		return "off", nil
	}
	number, err := syscall.LandlockGetABIVersion()
	if err != nil {
		return "none", nil //nolint:nilerr // an older kernel, or one that was told so
	}
	config := landlock.V7.BestEffort()
	config.HandledAccessNet = syscall.AccessNetBindTCP // it connects wherever the network lets it
	var rules []landlock.Rule
	for _, path := range system {
		rules = append(rules, rule(path, read))
	}
	for _, named := range f.Read {
		for _, path := range reach(named) {
			rules = append(rules, rule(path, read))
		}
	}
	for _, folder := range f.Write {
		rules = append(rules, rule(folder, write))
	}
	return strconv.Itoa(number), config.Restrict(rules...)
}

// rule allows access to what is there.
func rule(path string, access landlock.AccessFSSet) landlock.Rule {
	if info, err := os.Stat(path); err == nil && !info.IsDir() {
		access &= readFile // the kernel takes no rights of folders for a file
	}
	return landlock.PathAccess(access, path).IgnoreIfMissing()
}

// reach returns what has to be open for path to be read now, and after its file,
// or the symbolic link that it is, was replaced.
func reach(path string) []string {
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return nil
	}
	info, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil
	case info.IsDir():
		return []string{path}
	}
	if to, err := os.Stat(target); err == nil && !to.IsDir() {
		target = around(target)
	}
	return []string{around(path), target}
}

// around returns the folder of a file, or the file if that is all of the file system.
func around(path string) string {
	if folder := filepath.Dir(path); folder != "/" {
		return folder
	}
	return path
}
