package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// A cluster is an API server with etcd behind it, both in memory, that lets
// one user do anything.
type cluster struct {
	address    string
	kubeconfig string
	token      string
	client     *http.Client
}

// startCluster starts both servers in a folder.
func (w *world) startCluster(ctx context.Context, dir string) (*cluster, error) {
	c := &cluster{kubeconfig: filepath.Join(dir, "kubeconfig"), token: rand.Text()}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	etcd, err := w.startEtcd(ctx, dir)
	if err != nil {
		return nil, err
	}
	if c.address, err = freeAddress(); err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(c.address)
	if err != nil {
		return nil, err
	}
	key, tokens := filepath.Join(dir, "service-accounts.key"), filepath.Join(dir, "tokens.csv")
	err = errors.Join(writeKey(key), os.WriteFile(tokens, []byte(c.token+`,admin,admin,"system:masters"`+"\n"), 0o600))
	if err != nil {
		return nil, err
	}
	server, err := w.startProgram("kube-apiserver", w.link("kube-apiserver"), "--etcd-servers="+etcd,
		"--bind-address=127.0.0.1", "--secure-port="+port, "--cert-dir="+dir, "--endpoint-reconciler-type=none", "--service-cluster-ip-range=10.96.0.0/16",
		"--token-auth-file="+tokens, "--authorization-mode=RBAC", "--allow-privileged=true",
		"--disable-admission-plugins=ServiceAccount", // pods here are only looked at
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file="+key, "--service-account-signing-key-file="+key)
	if err != nil {
		return nil, err
	}
	if err := server.await(ctx, 100*time.Millisecond, func(ctx context.Context) error { return c.ready(ctx, dir) }); err != nil {
		return nil, err
	}
	return c, os.WriteFile(c.kubeconfig, fmt.Appendf(nil, `apiVersion: v1
kind: Config
clusters: [{name: bench, cluster: {server: "https://%s", certificate-authority: %s}}]
users: [{name: bench, user: {token: %s}}]
contexts: [{name: bench, context: {cluster: bench, user: bench}}]
current-context: bench
`, c.address, filepath.Join(dir, "apiserver.crt"), c.token), 0o600)
}

func (w *world) startEtcd(ctx context.Context, dir string) (url string, err error) {
	address, err1 := freeAddress()
	peer, err2 := freeAddress()
	if err := errors.Join(err1, err2); err != nil {
		return "", err
	}
	url = "http://" + address
	etcd, err := w.startProgram("etcd", w.link("etcd"), "--data-dir="+filepath.Join(dir, "etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls="+url, "--advertise-client-urls="+url, "--listen-peer-urls=http://"+peer)
	if err != nil {
		return "", err
	}
	return url, etcd.await(ctx, 50*time.Millisecond, func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/health", http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		return resp.Body.Close()
	})
}

// writeKey writes a key with which an API server signs.
func writeKey(path string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), 0o600)
}

// ready makes the client, once the server has made its certificate, and asks.
func (c *cluster) ready(ctx context.Context, dir string) error {
	if c.client == nil {
		authority, err := os.ReadFile(filepath.Join(dir, "apiserver.crt"))
		if err != nil {
			return err
		}
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM(authority)
		c.client = &http.Client{Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, MaxIdleConnsPerHost: 32,
		}}
	}
	_, err := c.call(ctx, http.MethodGet, "/readyz", nil)
	return err
}

// call calls the API server with an object, unless it is nil.
func (c *cluster) call(ctx context.Context, method, path string, object any) ([]byte, error) {
	body, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	if object == nil {
		body = nil
	}
	return c.send(ctx, method, path, "application/json", body)
}

func (c *cluster) send(ctx context.Context, method, path, contentType string, body []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://"+c.address+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+c.token)
	req.Header.Set("Content-Type", contentType)
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %.300s", method, path, resp.Status, answer)
	}
	return answer, err
}
