package plugin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/keymount/keymount/pkg/provider"
)

// Options adjust a Dir.
type Options struct {
	// MaxRecvMsgSize limits a provider's reply, in bytes. Default: 4 MiB.
	MaxRecvMsgSize int
	// WithholdVersions keeps from providers what a volume holds already, so
	// that each of their replies is complete.
	WithholdVersions bool
	// DialWait is how long a call waits for a socket that is there and does
	// not accept connections. Default: 5 s.
	DialWait time.Duration
	// Users says whose process has to serve a provider. Sockets of its name that
	// another user listens on are passed over, and nothing is sent to them.
	// Providers that are not here may be served by anybody.
	Users map[string]uint32
	// Version is the driver's own, for the providers' logs.
	Version string
}

func (o *Options) maxRecvMsgSize() int {
	if o == nil || o.MaxRecvMsgSize <= 0 {
		return 4 << 20
	}
	return o.MaxRecvMsgSize
}

func (o *Options) dialWait() time.Duration {
	if o == nil || o.DialWait <= 0 {
		return 5 * time.Second
	}
	return o.DialWait
}

func (o *Options) withholdVersions() bool { return o != nil && o.WithholdVersions }

// user returns whose process has to serve the provider.
func (o *Options) user(name string) (uid uint32, any bool) {
	if o == nil {
		return 0, true
	}
	uid, told := o.Users[name]
	return uid, !told
}

func (o *Options) userAgent() string {
	if o == nil || o.Version == "" {
		return "keymount"
	}
	return "keymount/" + o.Version
}

// names are those that a provider may have: upstream's, and not empty.
var names = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,30}$`)

var errClosed = errors.New("the driver is shutting down")

// A Dir finds providers by their sockets in some directories. It is safe for
// concurrent use and keeps one connection for each provider that was called.
type Dir struct {
	dirs []string
	opts *Options

	mu     sync.Mutex
	closed bool
	links  map[string]*link // by provider name
	spent  map[*link]bool   // replaced, with calls that still run
}

// NewDir returns a Dir that looks for sockets in dirs, in that order. It
// touches neither the directories nor the network.
func NewDir(dirs []string, opts *Options) *Dir {
	return &Dir{
		dirs:  slices.Clone(dirs),
		opts:  opts,
		links: make(map[string]*link),
		spent: make(map[*link]bool),
	}
}

// Lookup returns the provider of that name. It is cheap, does not connect,
// and the result stays useful when the provider's socket is replaced. The
// error wraps provider.ErrInvalid if no provider can have the name, and
// provider.ErrUnavailable if there is no socket at the moment.
//
// The result is also a provider.Notifier and a provider.Releaser; where the
// process behind the socket is neither, their methods return an error that
// wraps errors.ErrUnsupported.
func (d *Dir) Lookup(name string) (provider.Provider, error) {
	if !names.MatchString(name) {
		return nil, fmt.Errorf("provider name %.40q: want 1 to 30 letters, digits, '_' or '-': %w", name, provider.ErrInvalid)
	}
	if _, err := d.sockets(name); err != nil {
		return nil, err
	}
	return &client{dir: d, name: name}, nil
}

// Check asks the provider of that name for its version and returns an error
// if it does not answer.
func (d *Dir) Check(ctx context.Context, name string) error {
	p, err := d.Lookup(name)
	if err != nil {
		return err
	}
	return p.(*client).check(ctx)
}

// Close closes all connections; calls that still run fail. It is idempotent.
func (d *Dir) Close() error {
	d.mu.Lock()
	d.closed = true
	links := make([]*link, 0, len(d.links)+len(d.spent))
	for _, l := range d.links {
		links = append(links, l)
	}
	for l := range d.spent {
		links = append(links, l)
	}
	clear(d.links)
	clear(d.spent)
	d.mu.Unlock()
	for _, l := range links {
		l.close()
	}
	return nil
}

// A socket identifies a socket file at one moment: any of this changes when a
// provider starts anew.
type socket struct {
	path     string
	dev, ino uint64
	changed  syscall.Timespec
}

// sockets returns the socket files of a provider, in the order of the directories.
func (d *Dir) sockets(name string) ([]socket, error) {
	var found []socket
	for _, dir := range d.dirs {
		path := filepath.Join(dir, name+".sock")
		info, err := os.Stat(path)
		if err != nil || info.Mode().Type() != fs.ModeSocket {
			continue
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			found = append(found, socket{path, stat.Dev, stat.Ino, stat.Ctim})
		}
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("provider %q is %w: no socket %s.sock in %v: is the provider installed and running on this node?",
			name, provider.ErrUnavailable, name, d.dirs)
	}
	return found, nil
}

// acquire returns the connection to the sockets that are there now. The
// caller passes it to release after its call.
func (d *Dir) acquire(name string) (*link, error) {
	d.mu.Lock()
	l, stale, err := d.acquireLocked(name)
	d.mu.Unlock()
	stale.close()
	return l, err
}

// acquireLocked is acquire; it also returns the link that it replaced, if the
// caller must close it.
func (d *Dir) acquireLocked(name string) (l, stale *link, err error) {
	if d.closed {
		return nil, nil, fmt.Errorf("provider %q: %w: %w", name, errClosed, provider.ErrUnavailable)
	}
	sockets, err := d.sockets(name)
	if err != nil {
		return nil, nil, err
	}
	l = d.links[name]
	if l != nil && !l.at(sockets) {
		stale = d.retireLocked(l)
		l = nil
	}
	if l == nil {
		if l, err = d.newLink(name, sockets); err != nil {
			return nil, stale, err
		}
		d.links[name] = l
	}
	l.calls++
	return l, stale, nil
}

// release ends a call. A link that failed to connect is dropped, so that
// nothing dials a dead socket while nobody asks.
func (d *Dir) release(l *link, failed bool) {
	var done *link
	d.mu.Lock()
	l.calls--
	switch {
	case failed && d.links[l.name] == l:
		done = d.retireLocked(l)
	case d.spent[l] && l.calls == 0:
		delete(d.spent, l)
		done = l
	}
	d.mu.Unlock()
	done.close()
}

// retireLocked takes the link out of use, and returns it if the caller must
// close it; otherwise its last call does.
func (d *Dir) retireLocked(l *link) *link {
	delete(d.links, l.name)
	l.retire()
	if l.calls == 0 {
		return l
	}
	d.spent[l] = true
	return nil
}
