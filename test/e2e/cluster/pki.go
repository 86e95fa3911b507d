package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// A pki makes the keys, certificates and tokens of one cluster.
type pki struct {
	layout layout
	ca     *x509.Certificate
	key    crypto.Signer
	pem    []byte // of the certificate
}

// newPKI writes everything that the servers read: ca.crt, NAME.crt, NAME.key,
// NAME.kubeconfig and tokens.csv.
func newPKI(l layout) error {
	if err := os.MkdirAll(filepath.Dir(l.pki("x")), 0o700); err != nil {
		return err
	}
	p := &pki{layout: l}
	if err := p.authority(); err != nil {
		return err
	}
	for name, c := range map[string]*x509.Certificate{
		"apiserver": {
			Subject:     pkix.Name{CommonName: "kube-apiserver"},
			IPAddresses: []net.IP{net.ParseIP("127.0.0.1"), net.ParseIP(nodeIP), net.ParseIP(serviceIP)},
			DNSNames:    []string{"localhost", "kubernetes.default.svc"},
		},
		"kubelet":        {Subject: pkix.Name{CommonName: nodeName}, IPAddresses: []net.IP{net.ParseIP(nodeIP)}, DNSNames: []string{nodeName}},
		"kubelet-client": {Subject: pkix.Name{CommonName: "kube-apiserver", Organization: []string{"system:masters"}}},
	} {
		if err := p.issue(name, c); err != nil {
			return err
		}
	}
	if _, err := p.newKey("service-accounts"); err != nil {
		return err
	}
	return p.users(map[string][]string{
		"system:kube-controller-manager": {"system:masters"},
		"system:kube-scheduler":          nil,
		"system:node:" + nodeName:        {"system:nodes"},
		"admin":                          {"system:masters"},
	})
}

func (p *pki) authority() (err error) {
	if p.key, err = p.newKey("ca"); err != nil {
		return err
	}
	p.ca = &x509.Certificate{
		Subject: pkix.Name{CommonName: "e2e"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	p.pem, err = p.sign("ca", p.ca, p.key)
	return err
}

// issue writes a key and its certificate.
func (p *pki) issue(name string, c *x509.Certificate) error {
	key, err := p.newKey(name)
	if err != nil {
		return err
	}
	c.KeyUsage = x509.KeyUsageDigitalSignature
	c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	_, err = p.sign(name, c, key)
	return err
}

func (p *pki) sign(name string, c *x509.Certificate, key crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	c.SerialNumber = serial
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(7*24*time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, c, p.ca, key.Public(), p.key)
	if err != nil {
		return nil, fmt.Errorf("certificate %s: %w", name, err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return text, os.WriteFile(p.layout.pki(name+".crt"), text, 0o600)
}

func (p *pki) newKey(name string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
	return key, os.WriteFile(p.layout.pki(name+".key"), text, 0o600)
}

// users writes a kubeconfig for each user, and the list of their tokens.
func (p *pki) users(groups map[string][]string) error {
	var tokens strings.Builder
	for user, groups := range groups {
		token := rand.Text()
		fmt.Fprintf(&tokens, "%s,%s,%s,%q\n", token, user, user, strings.Join(groups, ","))
		config := api.NewConfig()
		config.Clusters["e2e"] = &api.Cluster{Server: "https://" + serviceIP, CertificateAuthorityData: p.pem}
		config.AuthInfos["e2e"] = &api.AuthInfo{Token: token}
		config.Contexts["e2e"] = &api.Context{Cluster: "e2e", AuthInfo: "e2e"}
		config.CurrentContext = "e2e"
		if err := clientcmd.WriteToFile(*config, p.layout.pki(user+".kubeconfig")); err != nil {
			return err
		}
	}
	return os.WriteFile(p.layout.pki("tokens.csv"), []byte(tokens.String()), 0o600)
}
