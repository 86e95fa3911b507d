package cluster

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"os/exec"
)

// kubePrograms are the names under which the binary kube is a program.
func kubePrograms() []string {
	return []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"}
}

// etcdURL is where etcd listens; it has no other members to talk to.
const etcdURL = "http://127.0.0.1:2379"

// programs returns the servers of the node.
func programs(l layout) []program {
	return []program{
		{name: "etcd", ready: answers(etcdURL + "/health"), command: []string{
			l.bin("etcd"), "--data-dir=/var/lib/etcd/data", "--unsafe-no-fsync", "--log-level=warn",
			"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL, "--listen-peer-urls=http://127.0.0.1:2380",
		}},
		{name: "kube-apiserver", ready: answers("https://" + serviceIP + "/readyz"), command: apiServer(l)},
		{name: "containerd", ready: runs("ctr", "version"), command: []string{"containerd", "--config=" + l.state("containerd.toml")}},
		{name: "kube-controller-manager", ready: answers("https://127.0.0.1:10257/healthz"), command: append(
			controller(l, "kube-controller-manager"),
			"--service-account-private-key-file="+l.pki("service-accounts.key"), "--root-ca-file="+l.pki("ca.crt"),
			"--kube-api-qps=500", "--kube-api-burst=1000", // the default takes seconds for the first service account
		)},
		{name: "kube-scheduler", ready: answers("https://127.0.0.1:10259/healthz"), command: controller(l, "kube-scheduler")},
		{name: "kubelet", ready: answers("http://127.0.0.1:10248/healthz"), role: roleKubelet, command: []string{
			l.bin("kubelet"), "--config=" + l.state("kubelet.yaml"), "--kubeconfig=" + l.pki("system:node:"+nodeName+".kubeconfig"),
			"--hostname-override=" + nodeName, "--node-ip=" + nodeIP, "--root-dir=" + kubeletRoot, "--v=2",
		}},
	}
}

func apiServer(l layout) []string {
	return []string{
		l.bin("kube-apiserver"), "--etcd-servers=" + etcdURL,
		"--bind-address=0.0.0.0", "--secure-port=443", "--advertise-address=" + nodeIP, "--service-cluster-ip-range=10.96.0.0/16",
		"--tls-cert-file=" + l.pki("apiserver.crt"), "--tls-private-key-file=" + l.pki("apiserver.key"), "--client-ca-file=" + l.pki("ca.crt"),
		"--token-auth-file=" + l.pki("tokens.csv"), "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--allow-privileged=true",
		"--service-account-issuer=https://kubernetes.default.svc",
		"--service-account-key-file=" + l.pki("service-accounts.key"), "--service-account-signing-key-file=" + l.pki("service-accounts.key"),
		"--kubelet-client-certificate=" + l.pki("kubelet-client.crt"), "--kubelet-client-key=" + l.pki("kubelet-client.key"),
		"--kubelet-certificate-authority=" + l.pki("ca.crt"), "--kubelet-preferred-address-types=InternalIP",
		"--requestheader-client-ca-file=" + l.pki("ca.crt"), "--requestheader-allowed-names=aggregator",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--audit-policy-file=" + l.state("audit.yaml"), "--audit-log-path=" + l.log("audit"), "--audit-log-mode=blocking-strict", "--audit-log-maxsize=10000",
	}
}

func controller(l layout, name string) []string {
	config := l.pki("system:" + name + ".kubeconfig")
	return []string{
		l.bin(name), "--kubeconfig=" + config, "--authentication-kubeconfig=" + config, "--authorization-kubeconfig=" + config,
		"--leader-elect=false", "--bind-address=127.0.0.1",
	}
}

// answers returns a check that a server of this node is well.
func answers(url string) func(context.Context) error {
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // some make their own certificate
		DisableKeepAlives: true,
	}}
	return func(ctx context.Context) error {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		response, err := client.Do(request)
		if err != nil {
			return err
		}
		_ = response.Body.Close() // nothing was read
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("%s: %s", url, response.Status)
		}
		return nil
	}
}

// runs returns a check that a command succeeds.
func runs(command ...string) func(context.Context) error {
	return func(ctx context.Context) error { return run(exec.CommandContext(ctx, command[0], command[1:]...)) }
}
