package serve

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"k8s.io/klog/v2"
)

// HTTP serves h on addr until ctx ends, or serving fails, which is an error.
// Then requests that run get the grace to finish. With certificates it serves
// HTTPS. The empty addr means that nothing is served: HTTP waits for the end of
// ctx.
func HTTP(ctx context.Context, addr string, certificates Certificates, h http.Handler, grace time.Duration) error {
	if addr == "" {
		<-ctx.Done()
		return nil
	}
	lis, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("listen for HTTP on %q: %w", addr, err)
	}
	if certificates != "" {
		config, err := certificates.config()
		if err != nil {
			return fmt.Errorf("serve HTTPS on %q: %w", addr, errors.Join(err, lis.Close()))
		}
		lis = tls.NewListener(lis, config)
	}
	return serveHTTP(ctx, lis, h, grace)
}

func serveHTTP(ctx context.Context, lis net.Listener, h http.Handler, grace time.Duration) error {
	server := &http.Server{
		Handler:           guardHTTP(h),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      2 * time.Minute, // a profile takes half of one
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          klog.NewStandardLogger("WARNING"),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(lis) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve HTTP on %s: %w", lis.Addr(), err)
	case <-ctx.Done():
	}
	graceful, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	if err := server.Shutdown(graceful); err != nil {
		_ = server.Close() // ends the context of requests that outlived the grace
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP on %s: %w", lis.Addr(), err)
	}
	return nil
}

// guardHTTP answers a panic of h with status 500; net/http would log its value.
func guardHTTP(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := guard("HTTP request", func() error {
			h.ServeHTTP(w, r)
			return nil
		})
		if err != nil {
			http.Error(w, "internal error", http.StatusInternalServerError)
		}
	})
}
