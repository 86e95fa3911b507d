// Package driver puts the node plugin together: its configuration, and the
// wiring of all other packages. It is the only package that knows them all.
package driver

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Config says how one driver process runs. The names of its flags are those
// of the upstream driver where that has them.
type Config struct {
	Endpoint   string // where kubelet calls, as unix:///path
	NodeID     string // name of this node
	DriverName string // as in the CSIDriver object and in pods
	Version    string // of this build; no flag

	ProviderDir     string // folder of provider sockets, searched last
	MoreProviders   string // more such folders, separated by commas, searched first
	ProviderUsers   Users  // whose processes have to serve providers
	ClassDir        string // folder of SecretProviderClass manifests; "" is the API server's
	Kubeconfig      string // file that names the API server; "" is that of the pod's cluster
	StateDir        string // folder that lives as long as the mounts
	MetricsAddr     string // host:port of /healthz, /readyz and /metrics; "" is off
	MetricsTLS      string // folder of certificates for HTTPS there; "" is HTTP
	PprofSocket     string // path of a unix socket that serves profiles; "" is off
	MaxRecvMsgSize  int    // of a provider's reply, in bytes
	ProviderTimeout time.Duration

	Rotation       bool          // refresh volumes while pods run
	RotationPeriod time.Duration // for classes that set none; 0 leaves rotation to those that do

	KubeletRoot      string // kubelet's --root-dir; "" allows targets anywhere
	RegistrationDir  string // kubelet's plugins_registry; "" leaves registration to a sidecar
	RegistrationPath string // the endpoint's socket as kubelet sees it; "" is as the driver does

	RequireProviders   string // names of providers without which the driver is not ready, separated by commas
	SyncSecrets        bool   // copy files to Kubernetes Secrets where a class asks for it
	MintTokens         bool   // of audiences that kubelet does not bring
	RemoveStartupTaint bool   // from this node, once the driver is ready

	AttributesWin bool // pods may override and extend the parameters of their class
	SendHeld      bool // tell providers which versions a volume holds

	AuditLog      string // -, unix:///path or a file; "" writes nothing down
	AuditRequired bool   // what cannot be written down there is refused; does not count for -

	TmpfsSize Bytes // of each volume
}

// Defaults returns the configuration of a driver without any flag.
func Defaults() Config {
	var c Config
	c.AddFlags(flag.NewFlagSet("", flag.ContinueOnError))
	return c
}

// maxVolumes bounds the memory for records: far above the pods of any node.
const maxVolumes = 10_000

// inodesPerVolume bounds the files of a volume: three thousand objects in two
// generations, and their directories.
const inodesPerVolume = 8192

// AddFlags defines the flags of the driver with their defaults.
func (c *Config) AddFlags(fs *flag.FlagSet) {
	fs.StringVar(&c.Endpoint, "endpoint", "unix:///csi/csi.sock", "`address` on which kubelet calls: unix:///path or tcp://host:port")
	fs.StringVar(&c.NodeID, "nodeid", "", "`name` of this node (spec.nodeName)")
	fs.StringVar(&c.DriverName, "drivername", "secrets-store.csi.k8s.io", "`name` of the driver in the CSIDriver object and in pods")
	fs.StringVar(&c.ProviderDir, "provider-volume", "/var/run/secrets-store-csi-providers", "`folder` of provider sockets, searched last")
	fs.StringVar(&c.MoreProviders, "additional-provider-volume-paths", "/etc/kubernetes/secrets-store-csi-providers", "more `folders` of provider sockets, separated by commas, searched first")
	fs.Var(&c.ProviderUsers, "provider-users", "`users` whose processes have to serve providers, as NAME=UID, separated by commas; others may be served by any user")
	fs.StringVar(&c.ClassDir, "class-dir", "", "`folder` of SecretProviderClass manifests to use instead of a cluster's")
	fs.StringVar(&c.Kubeconfig, "kubeconfig", "", "`file` that names the API server; without it, that of the cluster in whose pod the driver runs")
	fs.StringVar(&c.KubeletRoot, "kubelet-root", "/var/lib/kubelet", "`folder` that is kubelet's --root-dir; targets that are not below its pods folder are refused; \"\" allows any")
	fs.StringVar(&c.RegistrationDir, "registration-dir", "", "`folder` that is kubelet's plugins_registry, where the driver registers itself; without it, a node-driver-registrar has to")
	fs.StringVar(&c.RegistrationPath, "kubelet-registration-path", "", "`path` of the endpoint's socket as kubelet sees it; without it, as the driver does")
	fs.StringVar(&c.RequireProviders, "require-providers", "", "`names` of providers, separated by commas, that have to answer before the driver is ready")
	fs.BoolVar(&c.SyncSecrets, "sync-secrets", false, "copy files to Kubernetes Secrets as secretObjects of a class ask")
	fs.BoolVar(&c.MintTokens, "mint-tokens", false, "ask the API server for service account tokens of audiences that kubelet does not bring")
	fs.BoolVar(&c.RemoveStartupTaint, "remove-startup-taint", false, "remove the taint keymount.io/agent-not-ready from this node once the driver is ready")
	fs.StringVar(&c.StateDir, "state-dir", "/run/keymount", "`folder` for what is known of published volumes; never secrets; should vanish on reboot as mounts do")
	fs.StringVar(&c.MetricsAddr, "metrics-addr", ":8095", "`address` that serves /healthz, /readyz and /metrics over HTTP; \"\" turns it off")
	fs.StringVar(&c.MetricsTLS, "metrics-tls", "", "`folder` with tls.crt and tls.key, by which --metrics-addr serves HTTPS, and client-ca.crt if only clients with a certificate may read /metrics")
	fs.StringVar(&c.PprofSocket, "pprof-socket", "", "`path` of a unix socket that serves profiles")
	fs.BoolVar(&c.Rotation, "enable-secret-rotation", true, "refresh the secrets of running pods")
	fs.DurationVar(&c.RotationPeriod, "rotation-poll-interval", 2*time.Minute, "`duration` between two refreshes of a volume whose class sets no rotationInterval; 0 refreshes only those whose class does")
	fs.DurationVar(&c.ProviderTimeout, "provider-timeout", 90*time.Second, "`duration` after which a provider has failed; kubelet itself gives up after 2m")
	fs.IntVar(&c.MaxRecvMsgSize, "max-call-recv-msg-size", 4<<20, "largest reply of a provider in `bytes`")
	fs.BoolVar(&c.AttributesWin, "allow-volume-attribute-overrides", false, "let volume attributes of a pod override and extend the parameters of its class")
	fs.BoolVar(&c.SendHeld, "send-held-versions", true, "tell providers which object versions a volume holds, so that they can answer that nothing changed")
	fs.StringVar(&c.AuditLog, "audit-log", "", "where to write down who is given what: a `file`, unix:///path of a socket, or - for standard output")
	fs.BoolVar(&c.AuditRequired, "audit-required", true, "give out no secret that cannot be written down in --audit-log; does not count for -")
	c.TmpfsSize = 16 << 20
	fs.Var(&c.TmpfsSize, "tmpfs-size", "memory limit of one volume in `bytes`, with an optional suffix Ki, Mi or Gi; a rotation needs room for two generations")
}

// Validate returns everything that is wrong with the configuration, each with
// what to do about it.
func (c *Config) Validate() error {
	var problems []error
	wrong := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if c.NodeID == "" {
		wrong("--nodeid is missing: give the name of this node, from spec.nodeName of the driver's pod")
	}
	if c.DriverName == "" || len(c.DriverName) > 63 {
		wrong("--drivername is %q: use 1 to 63 characters, the name of your CSIDriver object", c.DriverName)
	}
	if c.Endpoint == "" {
		wrong("--endpoint is empty: use unix:///csi/csi.sock, where kubelet's plugin folder is mounted")
	}
	for _, dir := range c.providerDirs() {
		if !filepath.IsAbs(dir) {
			wrong("--provider-volume and --additional-provider-volume-paths: %q is not an absolute path", dir)
		}
	}
	c.checkClasses(wrong)
	c.checkKubelet(wrong)
	if !filepath.IsAbs(c.StateDir) {
		wrong("--state-dir is %q: name an absolute path below /run, which is lost on reboot as mounts are", c.StateDir)
	}
	if c.PprofSocket != "" && !filepath.IsAbs(c.PprofSocket) {
		wrong("--pprof-socket is %q: name the absolute path of a socket", c.PprofSocket)
	}
	if c.MetricsTLS != "" && !filepath.IsAbs(c.MetricsTLS) {
		wrong("--metrics-tls is %q: name the absolute path of a folder with tls.crt and tls.key", c.MetricsTLS)
	}
	if c.RotationPeriod < 0 || 0 < c.RotationPeriod && c.RotationPeriod < time.Second {
		wrong("--rotation-poll-interval is %v: use at least 1s, or 0 to refresh only volumes whose class sets rotationInterval", c.RotationPeriod)
	}
	if c.ProviderTimeout < time.Second || c.ProviderTimeout >= 2*time.Minute {
		wrong("--provider-timeout is %v: use 1s or more, and less than the 2m after which kubelet gives up", c.ProviderTimeout)
	}
	if c.MaxRecvMsgSize < 1<<10 {
		wrong("--max-call-recv-msg-size is %d: the unit is bytes; 4194304 is the default", c.MaxRecvMsgSize)
	}
	if c.TmpfsSize < 64<<10 {
		wrong("--tmpfs-size is %s: a volume needs at least 64Ki", &c.TmpfsSize)
	}
	return errors.Join(problems...)
}

func (c *Config) checkClasses(wrong func(string, ...any)) {
	if c.ClassDir == "" {
		return
	}
	if info, err := os.Stat(c.ClassDir); err != nil || !info.IsDir() {
		wrong("--class-dir is %q: name an existing folder of SecretProviderClass manifests, or leave it out to use those of the cluster", c.ClassDir)
	}
	for _, f := range []struct {
		name string
		set  bool
	}{{"kubeconfig", c.Kubeconfig != ""}, {"sync-secrets", c.SyncSecrets}, {"mint-tokens", c.MintTokens}, {"remove-startup-taint", c.RemoveStartupTaint}} {
		if f.set {
			wrong("--%s needs a cluster: leave out --class-dir, or it", f.name)
		}
	}
}

func (c *Config) checkKubelet(wrong func(string, ...any)) {
	if c.KubeletRoot != "" && !filepath.IsAbs(c.KubeletRoot) {
		wrong("--kubelet-root is %q: name the absolute path that is kubelet's --root-dir", c.KubeletRoot)
	}
	if c.RegistrationDir != "" && !filepath.IsAbs(c.RegistrationDir) {
		wrong("--registration-dir is %q: name the absolute path at which the driver sees kubelet's plugins_registry", c.RegistrationDir)
	}
	if c.RegistrationDir != "" && !filepath.IsAbs(c.registrationPath()) {
		wrong("--kubelet-registration-path is %q: name the absolute path at which kubelet sees the socket of --endpoint", c.registrationPath())
	}
}

// registrationPath is the path of the driver's socket as kubelet sees it.
func (c *Config) registrationPath() string {
	if c.RegistrationPath != "" {
		return c.RegistrationPath
	}
	rest, unix := strings.CutPrefix(c.Endpoint, "unix:")
	if !unix {
		return ""
	}
	return filepath.Clean("/" + strings.TrimLeft(rest, "/"))
}

// podsDir is the folder of kubelet's pods; "" for any.
func (c *Config) podsDir() string {
	if c.KubeletRoot == "" {
		return ""
	}
	return filepath.Join(c.KubeletRoot, "pods")
}

// requiredProviders returns the names of RequireProviders.
func (c *Config) requiredProviders() []string { return fields(c.RequireProviders) }

// providerDirs returns the folders of sockets in the order of their search.
func (c *Config) providerDirs() []string {
	return fields(c.MoreProviders + "," + c.ProviderDir)
}

// fields returns what stands between commas.
func fields(text string) []string {
	var all []string
	for field := range strings.SplitSeq(text, ",") {
		if field = strings.TrimSpace(field); field != "" {
			all = append(all, field)
		}
	}
	return all
}

// Bytes is a number of bytes that reads as 16Mi or 1048576.
type Bytes int64

var suffixes = []struct {
	text   string
	factor int64
}{{"Gi", 1 << 30}, {"Mi", 1 << 20}, {"Ki", 1 << 10}}

// String returns the shortest exact form.
func (b *Bytes) String() string {
	for _, s := range suffixes {
		if *b != 0 && int64(*b)%s.factor == 0 {
			return fmt.Sprintf("%d%s", int64(*b)/s.factor, s.text)
		}
	}
	return strconv.FormatInt(int64(*b), 10)
}

// Set implements flag.Value.
func (b *Bytes) Set(text string) error {
	digits, factor := text, int64(1)
	for _, s := range suffixes {
		if rest, ok := strings.CutSuffix(text, s.text); ok {
			digits, factor = rest, s.factor
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || int64(n) > math.MaxInt64/factor {
		return errors.New(`want a number of bytes such as 16777216, or 16Mi`)
	}
	*b = Bytes(int64(n) * factor)
	return nil
}

// Users are user IDs by the name of a provider, as vault=65532,file=65532.
type Users map[string]uint32

// String returns them in the order of the names.
func (u *Users) String() string {
	if u == nil {
		return ""
	}
	var all []string
	for _, name := range slices.Sorted(maps.Keys(*u)) {
		all = append(all, fmt.Sprintf("%s=%d", name, (*u)[name]))
	}
	return strings.Join(all, ",")
}

// Set implements flag.Value.
func (u *Users) Set(text string) error {
	users := Users{}
	for _, field := range fields(text) {
		name, number, _ := strings.Cut(field, "=")
		uid, err := strconv.ParseUint(number, 10, 32)
		if err != nil || name == "" {
			return errors.New("want names of providers with user IDs, such as vault=65532,file=65532")
		}
		users[name] = uint32(uid)
	}
	*u = users
	return nil
}
