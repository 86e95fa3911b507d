package sandbox

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// A Profile lists the system calls that a process may make, in the format of
// containers' seccomp profiles (linux.seccomp of the OCI runtime
// specification), of which it uses the part that is here. All others fail with
// ENOSYS, as on a kernel that has not got them, for which programs are
// prepared; the kernel's audit log tells of them.
type Profile []byte

// The profiles of the commands. Each loads its own, because a container
// runtime gives none to a privileged container.
var (
	//go:embed driver.json
	Driver Profile
	//go:embed provider.json
	Provider Profile
)

type document struct {
	DefaultAction   string   `json:"defaultAction"`
	DefaultErrnoRet uint32   `json:"defaultErrnoRet"`
	Architectures   []string `json:"architectures"`
	Syscalls        []calls  `json:"syscalls"`
}

// calls may be made; those with args only if all of these hold.
type calls struct {
	Names  []string `json:"names"`
	Action string   `json:"action"`
	Args   []arg    `json:"args"`
}

type arg struct {
	Index    uint32 `json:"index"`
	Op       string `json:"op"`
	Value    uint64 `json:"value"`
	ValueTwo uint64 `json:"valueTwo"`
}

// load makes the profile hold for all threads, and keeps all from gaining
// privileges by executing a program.
func (p Profile) load() error {
	program, err := p.program()
	if err != nil {
		return err
	}
	runtime.LockOSThread() // it tells the other threads of both
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	const flags = unix.SECCOMP_FILTER_FLAG_TSYNC | unix.SECCOMP_FILTER_FLAG_LOG
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&filter))); errno != 0 { //nolint:gosec // the kernel takes it so
		return fmt.Errorf("load the seccomp filter: %w", errno)
	}
	return nil
}

// program returns the profile as the kernel runs it.
func (p Profile) program() ([]unix.SockFilter, error) {
	d, err := p.parse()
	if err != nil {
		return nil, err
	}
	allowed, err := d.allowed()
	if err != nil {
		return nil, err
	}
	policy := seccomp.Policy{DefaultAction: seccomp.ActionErrno, Syscalls: []seccomp.SyscallGroup{allowed}}
	instructions, err := policy.Assemble()
	if err != nil {
		return nil, err
	}
	// The library knows no other error than EPERM.
	instructions[len(instructions)-1] = bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | d.DefaultErrnoRet&unix.SECCOMP_RET_DATA}
	raw, err := bpf.Assemble(instructions)
	if err != nil {
		return nil, err
	}
	program := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		program[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return program, nil
}

// parse reads a profile; one with more than is used here is an error.
func (p Profile) parse() (*document, error) {
	var d document
	decoder := json.NewDecoder(bytes.NewReader(p))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	if d.DefaultAction != "SCMP_ACT_ERRNO" {
		return nil, errors.New("seccomp profile: the default is not to refuse")
	}
	return &d, nil
}

// allowed returns the calls of this architecture as the library has them.
func (d *document) allowed() (seccomp.SyscallGroup, error) {
	group := seccomp.SyscallGroup{Action: seccomp.ActionAllow}
	here, err := arch.GetInfo("")
	if err != nil {
		return group, err
	}
	for _, c := range d.Syscalls {
		if c.Action != "SCMP_ACT_ALLOW" {
			return group, fmt.Errorf("seccomp profile: %v have the action %q", c.Names, c.Action)
		}
		conditions, err := conditions(c.Args)
		if err != nil {
			return group, fmt.Errorf("seccomp profile: %v: %w", c.Names, err)
		}
		for _, name := range c.Names {
			_, known := here.SyscallNames[name]
			switch {
			case !known: // another architecture has it
			case conditions == nil:
				group.Names = append(group.Names, name)
			default:
				group.NamesWithCondtions = append(group.NamesWithCondtions, seccomp.NameWithConditions{Name: name, Conditions: conditions})
			}
		}
	}
	return group, nil
}

func conditions(args []arg) (seccomp.ArgumentConditions, error) {
	var all seccomp.ArgumentConditions
	for _, a := range args {
		switch {
		case a.Op == "SCMP_CMP_EQ":
			all = append(all, seccomp.Condition{Argument: a.Index, Operation: seccomp.Equal, Value: a.Value})
		case a.Op == "SCMP_CMP_MASKED_EQ" && a.ValueTwo == 0: // Value is the mask
			all = append(all, seccomp.Condition{Argument: a.Index, Operation: seccomp.BitsNotSet, Value: a.Value})
		default:
			return nil, fmt.Errorf("argument %d is compared by %q", a.Index, a.Op)
		}
	}
	return all, nil
}
