package plugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/serve"
	"github.com/keymount/keymount/pkg/trace"
)

// maxHeaders bounds the metadata of a reply, which holds all warnings that a
// bundle may have. gRPC's own limit is 16 MiB.
const maxHeaders = 1 << 20

// A link is the connection to one provider, for as long as its sockets stay
// the same. It connects at its first call.
type link struct {
	name    string
	conn    *grpc.ClientConn
	find    func(name string) ([]socket, error)
	opts    *Options
	calls   int             // guarded by Dir.mu
	retired context.Context // ends when the link is replaced
	retire  context.CancelFunc

	mu      sync.Mutex
	sockets []socket // what was there when it last connected
	failure error    // of the last dial
}

// newLink returns a link that does not connect yet.
func (d *Dir) newLink(name string, sockets []socket) (*link, error) {
	l := &link{name: name, find: d.sockets, opts: d.opts, sockets: sockets}
	conn, err := grpc.NewClient("passthrough:///"+name, append(serve.ClearedClient(),
		trace.Client(),
		grpc.WithContextDialer(l.dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithAuthority("localhost"), // some servers refuse a file name there
		grpc.WithNoProxy(),
		grpc.WithDisableRetry(), // a retry of Mount may issue a second lease
		grpc.WithUserAgent(d.opts.userAgent()),
		grpc.WithMaxHeaderListSize(maxHeaders),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(d.opts.maxRecvMsgSize())),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 20 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: d.opts.dialWait(),
		}),
	)...)
	if err != nil {
		return nil, fmt.Errorf("provider %q: %w: %w", name, err, provider.ErrUnavailable)
	}
	l.conn = conn
	l.retired, l.retire = context.WithCancel(context.Background())
	return l, nil
}

// dial connects to the first socket that accepts. A dead socket file in one
// directory thus does not hide a live one in the next.
func (l *link) dial(ctx context.Context, _ string) (net.Conn, error) {
	sockets, err := l.find(l.name)
	if err != nil {
		l.dialled(nil, err)
		return nil, err
	}
	var failures []error
	for _, s := range sockets {
		conn, err := l.connect(ctx, s.path)
		if err == nil {
			l.dialled(sockets, nil)
			return conn, nil
		}
		failures = append(failures, err)
	}
	err = errors.Join(failures...)
	l.dialled(nil, err)
	return nil, err
}

// connect connects to a socket, if the right user listens on it.
func (l *link) connect(ctx context.Context, path string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	want, any := l.opts.user(l.name)
	if uid, known := peer(conn); !any && (!known || uid != want) {
		return nil, errors.Join(fmt.Errorf("the process that listens on %s is user %d's, and has to be %d's (--provider-users)", path, uid, want), conn.Close())
	}
	return conn, nil
}

// dialled notes how a dial ended.
func (l *link) dialled(sockets []socket, failure error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failure = failure
	if sockets != nil {
		l.sockets = sockets
	}
}

// at reports whether the link leads to these sockets.
func (l *link) at(sockets []socket) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Equal(l.sockets, sockets)
}

// ready returns once the provider accepts calls, or when wait is over, or ctx.
func (l *link) ready(ctx context.Context, wait time.Duration) error {
	if l.conn.GetState() == connectivity.Ready {
		return nil
	}
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	for {
		state := l.conn.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown:
			return fmt.Errorf("provider %q: %w: %w", l.name, errClosed, provider.ErrUnavailable)
		case connectivity.Idle:
			l.conn.Connect()
		}
		if !l.conn.WaitForStateChange(waiting, state) {
			return l.unready(ctx, wait)
		}
	}
}

// unready says why the provider does not accept calls.
func (l *link) unready(ctx context.Context, wait time.Duration) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	why := l.failure
	if why == nil {
		why = errors.New("it accepts connections and says nothing")
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("provider %q does not answer at %s: %w: %w: %w", l.name, l.sockets[0].path, why, err, provider.ErrUnavailable)
	}
	return fmt.Errorf("provider %q does not answer at %s within %v: %w: is it running? %w",
		l.name, l.sockets[0].path, wait, why, provider.ErrUnavailable)
}

// close closes the connection. A nil link has none.
func (l *link) close() {
	if l == nil {
		return
	}
	l.retire()
	_ = l.conn.Close() // it is closed either way
}
