package file

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/provider/params"
)

// policyName is the file in the root of the store with the access policy. No
// namespace can have this name.
const policyName = "policy.yaml"

// A policy says which service accounts may read what.
type policy struct {
	Rules []rule `param:"rules"`
}

// A rule allows every one of its service accounts every one of its paths.
type rule struct {
	Namespace       string   `param:"namespace"`
	ServiceAccounts []string `param:"serviceAccounts"`
	Paths           []string `param:"paths"`
}

// policies reads the policy for each fetch.
type policies struct {
	file     string // full path
	required bool
	seen     atomic.Bool // there was one, and it must not go
}

// check returns an error unless the pod may read all objects. It looks at no
// object, so that who may not read it does not learn whether it exists.
func (p *policies) check(store *os.Root, pod provider.Pod, objects []object) error {
	if _, err := store.Lstat(policyName); errors.Is(err, fs.ErrNotExist) {
		return p.absent()
	}
	p.seen.Store(true)
	text, err := readPolicy(store)
	if err != nil {
		return fmt.Errorf("the access policy %s cannot be read, so it allows nothing: %w", p.file, provider.ErrDenied)
	}
	rules, err := parsePolicy(text)
	if err != nil {
		return fmt.Errorf("the access policy %s is malformed, so it allows nothing: %w: %w", p.file, err, provider.ErrDenied)
	}
	for _, o := range objects {
		if !slices.ContainsFunc(rules, func(r rule) bool { return r.allows(pod, o) }) {
			return fmt.Errorf("%v: service account %q of namespace %q may not read %q; a rule in %s could allow it: %w",
				o, pod.ServiceAccount, pod.Namespace, o.pattern(), p.file, provider.ErrDenied)
		}
	}
	return nil
}

// absent says whether all may be read while there is no policy.
func (p *policies) absent() error {
	switch {
	case p.required:
		return fmt.Errorf("there is no access policy %s, and --file-require-policy is set: %w", p.file, provider.ErrDenied)
	case p.seen.Load():
		return fmt.Errorf("the access policy %s is gone, so nothing is allowed: put it back, or restart the provider to go on without one: %w", p.file, provider.ErrDenied)
	default:
		return nil
	}
}

func readPolicy(store *os.Root) ([]byte, error) {
	f, err := store.OpenFile(policyName, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fs.ErrInvalid
	}
	return io.ReadAll(io.LimitReader(f, params.MaxSize+1))
}

// parsePolicy returns the rules of a policy that has no mistake in it.
func parsePolicy(text []byte) ([]rule, error) {
	policy, err := params.Decode[policy](text)
	if err != nil {
		// Without its sentinel: it is not the request that is invalid.
		return nil, errors.New(strings.TrimSuffix(err.Error(), ": "+provider.ErrInvalid.Error()))
	}
	for i, r := range policy.Rules {
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("rules[%d]: %w", i, err)
		}
	}
	return policy.Rules, nil
}

func (r rule) check() error {
	switch {
	case r.Namespace == "", strings.ContainsAny(r.Namespace, "*?["):
		return errors.New("namespace must be the name of one namespace")
	case len(r.ServiceAccounts) == 0, slices.Contains(r.ServiceAccounts, ""):
		return errors.New(`serviceAccounts must be a list of names; "*" is any`)
	case len(r.Paths) == 0:
		return errors.New(`paths must be a list of patterns; "**" is any`)
	}
	for i, pattern := range r.Paths {
		if err := checkPattern(pattern); err != nil {
			return fmt.Errorf("paths[%d] %w", i, err)
		}
	}
	return nil
}

func checkPattern(pattern string) error {
	if pattern == "**" {
		return nil
	}
	pattern = strings.TrimSuffix(pattern, "/**")
	malformed := func(element string) bool {
		_, err := path.Match(element, "")
		return err != nil
	}
	switch {
	case strings.Contains(pattern, "**"), checkPath(pattern) != nil, slices.ContainsFunc(strings.Split(pattern, "/"), malformed):
		return errors.New(`is not a pattern such as db.json, "*.pem" or certs/**`)
	case strings.HasSuffix(pattern, ageSuffix):
		return errors.New("names a file with .age; a policy names it without")
	default:
		return nil
	}
}

// allows reports whether the rule lets the pod read the object.
func (r rule) allows(pod provider.Pod, o object) bool {
	return r.Namespace == pod.Namespace &&
		(slices.Contains(r.ServiceAccounts, "*") || slices.Contains(r.ServiceAccounts, pod.ServiceAccount)) &&
		slices.ContainsFunc(r.Paths, o.matches)
}

// pattern is the pattern that allows just the object.
func (o object) pattern() string {
	switch {
	case o.folder && o.path == ".":
		return "**"
	case o.folder:
		return o.path + "/**"
	default:
		return o.path
	}
}

// matches reports whether the pattern of a rule covers the object. Only a
// pattern that ends in ** covers a folder, and with it all that is in there.
// Element by element, no [class] matches a slash.
func (o object) matches(pattern string) bool {
	elements := strings.Split(o.pattern(), "/")
	for element := range strings.SplitSeq(pattern, "/") {
		if len(elements) == 0 || element == "**" {
			return len(elements) > 0
		}
		if ok, err := path.Match(element, elements[0]); !ok || err != nil {
			return false
		}
		elements = elements[1:]
	}
	return len(elements) == 0 && !o.folder
}
