package serve

import (
	"context"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// Profiles serves the profiles of net/http/pprof on a listener, which should be
// a unix socket, until ctx ends. They have no content of memory, but say what
// the process does.
func Profiles(ctx context.Context, lis net.Listener, grace time.Duration) error {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	return serveHTTP(ctx, lis, mux, grace)
}
