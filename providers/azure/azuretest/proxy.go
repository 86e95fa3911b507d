package azuretest

import (
	"context"
	"io"
	"net/http"
	"sync"
)

// A proxy leads whoever has it as HTTPS_PROXY or HTTP_PROXY to the server.
type proxy struct {
	server *Server
	ctx    context.Context // ends all connections
	led    sync.RWMutex    // held by each of them
}

// ServeHTTP implements http.Handler.
func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		p.connect(w, r)
	case r.URL.Host == imdsAddress && !p.server.imds.isOff():
		p.server.ServeHTTP(w, r)
	default:
		http.Error(w, "azuretest serves only IMDS without TLS", http.StatusBadGateway)
	}
}

// connect joins the client with a connection of Dial, until one end closes.
func (p *proxy) connect(w http.ResponseWriter, r *http.Request) {
	p.led.RLock()
	defer p.led.RUnlock()
	up, err := p.server.Dial(r.Context(), "tcp", r.Host)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	down, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = up.Close()
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	both := func() { _, _ = up.Close(), down.Close() }
	defer context.AfterFunc(p.ctx, both)()
	_, _ = io.WriteString(down, "HTTP/1.1 200 Connection established\r\n\r\n") // who is gone is noticed below
	var upward sync.WaitGroup
	upward.Go(func() {
		_, _ = io.Copy(up, buffered)
		both()
	})
	_, _ = io.Copy(down, up)
	both()
	upward.Wait()
}
