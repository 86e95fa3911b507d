// Package file is a provider for secrets in local files: a folder of the
// node, a mounted disk, or a Git checkout of files encrypted with age.
//
// # Store
//
// The store is a folder. A pod of namespace N reads files below <root>/N and
// nothing else: symbolic links are followed only inside of that folder, and
// devices, sockets and pipes are refused. Files that end in .age are
// decrypted with the age identities and the passphrase that the flags name.
// Objects, the access policy and object IDs name such a file without .age; a
// file that is there in both forms is an error.
//
// # Parameters
//
// The one parameter is objects, a YAML list of maps:
//
//	objectName      the file in the volume; may contain slashes. Default: key, else the last element of path
//	path            the file in the namespace's folder. Default: objectName.
//	                With a slash at the end: every regular file below that
//	                folder, below objectName or, without it, the volume's root
//	key             one value of a JSON (.json), YAML (.yaml, .yml) or dotenv (.env) file.
//	                The dots of a.b descend, unless there is a key of that very name
//	encoding        utf-8 (default), base64 or hex: how the stored form stands for the bytes
//	filePermission  octal, quoted or not. Default: what the driver asks for
//	optional        true: leave the file out of the volume while file or key do not exist
//
// A whole file gives its exact bytes. With key, text gives its bytes without
// a newline; any other scalar its text as it is written; a list or map
// compact JSON. In a dotenv file $ stands for itself. Two objects that give
// the same file are an error. A class has at most 1024 objects; names and
// paths have at most 32 elements, and dots lead through at most 16 maps.
//
// # Access policy
//
// If the store has a policy.yaml in its root, a pod reads only what a rule
// allows its service account. A policy that cannot be read allows nothing.
// Nor does one that goes away, which an editor may do for a moment: once there
// was a policy, its absence denies until the process restarts. Set
// --file-require-policy to be safe across restarts too. A policy speaks of
// paths as objects name them, before symbolic links. In its patterns * and ?
// match within one element of a path, and a ** at the end all that is below.
//
//	rules:
//	- namespace: shop
//	  serviceAccounts: [web, worker]  # "*" is any
//	  paths: [db.json, "*.pem", "team-*/**"]  # a whole folder needs a /** rule
//
// # Errors
//
// Not found: file or key do not exist. Denied: the policy, the operating
// system, a link out of the folder, or no identity that decrypts. Invalid:
// parameters, not a regular file, too large, or not in the form that key or
// encoding say. Unavailable: encrypted content is damaged, perhaps half
// written, or an identity file cannot be read.
//
// # Versions and changes
//
// Object IDs are <namespace>/<path>, one per file however many keys are taken
// from it, and <namespace>/<folder>/ for the list of files in a folder. A
// version is an HMAC of what the volume takes from the file, under a key that
// lives as long as the Provider: after a restart each volume is fetched once
// although nothing changed. An unchanged poll looks at file attributes only.
package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/pflag"

	"github.com/keymount/keymount/pkg/provider"
)

const (
	defaultRoot    = "/etc/keymount/secrets"
	defaultMaxSize = 4 << 20
)

// Options say where the store is and how to read it. Nil and the zero value
// are the store in /etc/keymount/secrets without encryption.
type Options struct {
	Root           string   // folder of the store
	Identities     []string // files of age identities (native, post-quantum) or of one SSH private key
	PassphraseFile string   // file whose content, without the last line break, is an age passphrase
	RequirePolicy  bool     // without a policy.yaml nothing may be read
	MaxFileSize    int64    // bytes of one file; a volume may have 16 times as many. Zero is 4 MiB
}

// AddFlags adds the flags that set the options; what is set already is their
// default.
func (o *Options) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Root, "file-root", o.root(), "folder of the file provider's store; a pod reads the files below the subfolder with the name of its namespace")
	fs.StringArrayVar(&o.Identities, "file-identity", o.Identities, "file of age identities or of an SSH private key that decrypts .age files (repeatable)")
	fs.StringVar(&o.PassphraseFile, "file-passphrase-file", o.PassphraseFile, "file of a passphrase that decrypts .age files")
	fs.BoolVar(&o.RequirePolicy, "file-require-policy", o.RequirePolicy, "refuse everything while the store has no policy.yaml")
	fs.Int64Var(&o.MaxFileSize, "file-max-size", o.maxFileSize(), "size limit of a file, in bytes")
}

// Files returns the files and folders that a provider with these options reads.
func (o *Options) Files() []string {
	files := append([]string{o.root()}, o.Identities...)
	if o.PassphraseFile != "" {
		files = append(files, o.PassphraseFile)
	}
	return files
}

func (o *Options) root() string {
	if o == nil || o.Root == "" {
		return defaultRoot
	}
	return o.Root
}

func (o *Options) maxFileSize() int64 {
	if o == nil || o.MaxFileSize <= 0 {
		return defaultMaxSize
	}
	return o.MaxFileSize
}

// A Provider reads secrets from local files. It is safe for concurrent use
// and holds nothing that needs to be closed.
type Provider struct {
	root     string
	maxSize  int64
	keys     *keyring
	policies policies
	versions versions
}

// New returns a Provider for the store. It fails if the store is not a folder
// or an identity cannot be read.
func New(opts *Options) (*Provider, error) {
	root, err := filepath.Abs(opts.root())
	if err != nil {
		return nil, fmt.Errorf("--file-root %q: %w", opts.root(), provider.ErrInvalid)
	}
	if info, err := os.Stat(root); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("--file-root %q is not a folder that can be read: %w", root, provider.ErrInvalid)
	}
	p := &Provider{root: root, maxSize: opts.maxFileSize(), keys: &keyring{}}
	p.policies.file = filepath.Join(root, policyName)
	_, err = os.Lstat(p.policies.file)
	p.policies.seen.Store(err == nil)
	if opts != nil {
		p.policies.required = opts.RequirePolicy
		p.keys.add(opts.Identities, opts.PassphraseFile)
	}
	if _, err := p.keys.identities(); err != nil {
		return nil, err
	}
	return p, p.versions.init()
}

// attempts is how often a fetch starts over because files change under it.
const attempts = 4

// errMoved says that files changed while they were read.
var errMoved = errors.New("files change faster than they can be read")

// Fetch returns the files of one volume, all as they were at one moment.
func (p *Provider) Fetch(ctx context.Context, req *provider.Request) (*provider.Bundle, error) {
	objects, err := parseObjects(req)
	if err != nil {
		return nil, err
	}
	for range attempts {
		bundle, err := p.fetch(ctx, req, objects)
		if !errors.Is(err, errMoved) {
			return bundle, err
		}
	}
	return nil, fmt.Errorf("namespace %q: %w: %w", req.Pod.Namespace, errMoved, provider.ErrUnavailable)
}

// fetch reads between two looks at the attributes of all files, and returns
// errMoved if these differ.
func (p *Provider) fetch(ctx context.Context, req *provider.Request, objects []object) (*provider.Bundle, error) {
	tree, err := openTree(p.root, req.Pod.Namespace)
	if err != nil {
		return nil, err
	}
	defer tree.close()
	if err := p.policies.check(tree.store, req.Pod, objects); err != nil {
		return nil, err
	}
	before, err := survey(ctx, tree, objects)
	if err != nil {
		return nil, err
	}
	if held, ok := p.versions.known(before.sources); ok && held.Equal(req.Held.Versions) {
		return &provider.Bundle{Versions: held, Unchanged: true}, nil
	}
	bundle, failed := p.read(ctx, tree, before.sources)
	if after, err := survey(ctx, tree, objects); err != nil || !before.same(after) {
		return nil, errMoved
	}
	if failed != nil {
		return nil, failed
	}
	if bundle.Versions.Equal(req.Held.Versions) {
		return &provider.Bundle{Versions: bundle.Versions, Unchanged: true}, nil
	}
	return bundle, nil
}

// canceled returns an error once ctx has ended.
func canceled(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", context.Cause(ctx), provider.ErrUnavailable)
}
