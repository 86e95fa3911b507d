package cluster

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// kernelSettings are what kubelet wants the kernel to be set to.
func kernelSettings() map[string]string {
	return map[string]string{
		"vm/overcommit_memory":      "1",
		"vm/panic_on_oom":           "0",
		"kernel/panic":              "10",
		"kernel/panic_on_oops":      "1",
		"kernel/keys/root_maxkeys":  "1000000",
		"kernel/keys/root_maxbytes": "25000000",
	}
}

// becomeKubelet is the role of a process in a mount namespace of its own. It
// covers the machine's kernel settings by files that say what kubelet wants to
// read, so that it has nothing to change, and executes it. In the namespace of
// the node they would keep pods in user namespaces from mounting /proc.
func becomeKubelet(command []string) error {
	l := layoutOf(os.Getenv(runVariable))
	m := &mounter{}
	m.mount("", "/proc", "", unix.MS_PRIVATE, "")
	for setting, value := range kernelSettings() {
		file := filepath.Join(l.state("sysctl"), setting)
		m.folder(filepath.Dir(file))
		if m.err == nil {
			m.err = os.WriteFile(file, []byte(value+"\n"), 0o644)
		}
		m.mount(file, filepath.Join("/proc/sys", setting), "", unix.MS_BIND, "")
	}
	if m.err != nil {
		return m.err
	}
	return fmt.Errorf("execute %s: %w", command[0], syscall.Exec(command[0], command, os.Environ()))
}
