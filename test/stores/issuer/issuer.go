// Package issuer is the part of a Kubernetes API server that the auth methods
// of a store rely on: it issues service account tokens, and reviews them.
package issuer

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/secret"
)

// Name is the issuer in its tokens.
const Name = "https://kubernetes.default.svc"

// An Issuer issues tokens, and serves the API of TokenReview over TLS. It is
// safe for concurrent use.
type Issuer struct {
	key    *ecdsa.PrivateKey
	server *httptest.Server

	mu      sync.Mutex
	issued  map[string]claims // by token
	reviews int
}

type claims struct {
	Issuer   string   `json:"iss"`
	Subject  string   `json:"sub"`
	Audience []string `json:"aud"`
	Expires  int64    `json:"exp"`
	Issued   int64    `json:"iat"`
	From     int64    `json:"nbf"`
	ID       string   `json:"jti"`
	Pod      bound    `json:"kubernetes.io"`
}

// bound is what a token belongs to.
type bound struct {
	Namespace      string `json:"namespace"`
	ServiceAccount object `json:"serviceaccount"`
	Pod            object `json:"pod"`
}

type object struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
}

// New returns an issuer that serves until the test ends.
func New(t testing.TB) *Issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &Issuer{key: key, issued: make(map[string]claims)}
	i.server = httptest.NewUnstartedServer(http.HandlerFunc(i.review))
	i.server.Config.SetKeepAlivesEnabled(false) // no goroutine outlives its call
	i.server.StartTLS()
	t.Cleanup(i.server.Close)
	return i
}

// URL returns the address of the API server.
func (i *Issuer) URL() string { return i.server.URL }

// CA returns the certificate of the API server.
func (i *Issuer) CA() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.server.Certificate().Raw}))
}

// PublicKey returns the key that verifies the tokens.
func (i *Issuer) PublicKey(t testing.TB) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&i.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

// Reviews returns how many tokens were reviewed.
func (i *Issuer) Reviews() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.reviews
}

// Token returns a new token of the pod's service account for one audience.
func (i *Issuer) Token(t testing.TB, pod provider.Pod, audience string, lifetime time.Duration) provider.Token {
	t.Helper()
	now := time.Now()
	c := claims{
		Issuer: Name, Subject: "system:serviceaccount:" + pod.Namespace + ":" + pod.ServiceAccount, Audience: []string{audience},
		Expires: now.Add(lifetime).Unix(), Issued: now.Unix(), From: now.Unix(), ID: rand.Text(),
		Pod: bound{pod.Namespace, object{pod.ServiceAccount, "uid-of-" + pod.ServiceAccount}, object{pod.Name, pod.UID}},
	}
	token, err := i.sign(c)
	if err != nil {
		t.Fatal(err)
	}
	i.mu.Lock()
	i.issued[token] = c
	i.mu.Unlock()
	return provider.Token{Value: secret.New([]byte(token)), Expires: time.Unix(c.Expires, 0)}
}

// sign returns the claims as a JWT of the algorithm ES256.
func (i *Issuer) sign(c claims) (string, error) {
	payload, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"ES256","typ":"JWT"}`)) + "." + base64.RawURLEncoding.EncodeToString(payload)
	sum := sha256.Sum256([]byte(text))
	r, s, err := ecdsa.Sign(rand.Reader, i.key, sum[:])
	if err != nil {
		return "", err
	}
	signature := make([]byte, 64)
	r.FillBytes(signature[:32])
	s.FillBytes(signature[32:])
	return text + "." + base64.RawURLEncoding.EncodeToString(signature), nil
}

// tokenReview is the object of the API group authentication.k8s.io.
type tokenReview struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Spec       struct {
		Token     string   `json:"token"`
		Audiences []string `json:"audiences"`
	} `json:"spec"`
	Status struct {
		Authenticated bool     `json:"authenticated"`
		Error         string   `json:"error,omitempty"`
		Audiences     []string `json:"audiences,omitempty"`
		User          struct {
			Username string   `json:"username"`
			UID      string   `json:"uid"`
			Groups   []string `json:"groups"`
		} `json:"user"`
	} `json:"status"`
}

func (i *Issuer) review(w http.ResponseWriter, r *http.Request) {
	var review tokenReview
	switch {
	case r.Method != http.MethodPost || r.URL.Path != "/apis/authentication.k8s.io/v1/tokenreviews":
		http.Error(w, "not found", http.StatusNotFound)
		return
	case r.Header.Get("Authorization") == "":
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	case json.NewDecoder(r.Body).Decode(&review) != nil:
		http.Error(w, "no TokenReview", http.StatusBadRequest)
		return
	}
	i.judge(&review)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	_ = json.NewEncoder(w).Encode(review) // a caller that has gone needs no answer
}

// judge fills the status in.
func (i *Issuer) judge(review *tokenReview) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.reviews++
	c, ok := i.issued[review.Spec.Token]
	if !ok || time.Now().Unix() >= c.Expires {
		review.Status.Error = "[invalid bearer token, token lookup failed]"
		return
	}
	if wanted := review.Spec.Audiences; len(wanted) > 0 {
		review.Status.Audiences = slices.DeleteFunc(slices.Clone(wanted), func(a string) bool { return !slices.Contains(c.Audience, a) })
		if len(review.Status.Audiences) == 0 {
			review.Status.Error = "[invalid bearer token, token audiences do not match]"
			return
		}
	}
	namespace := strings.Split(c.Subject, ":")[2]
	review.Status.Authenticated = true
	review.Status.User.Username = c.Subject
	review.Status.User.UID = c.Pod.ServiceAccount.UID
	review.Status.User.Groups = []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"}
}
