package vaulttest

import "net/http"

// status answers what the server tells everybody, even while it is sealed.
func (s *Server) status(c *call) *answer {
	if c.op != "read" {
		return nil
	}
	switch c.full {
	case "sys/health":
		h := &health{Initialized: true, Sealed: s.sealed, Standby: s.sealed, PerformanceMode: "disabled", RecoveryMode: "disabled", Time: c.now.Unix(), Version: version}
		if s.sealed {
			h.PerformanceMode, h.RecoveryMode = "unknown", "unknown"
			return &answer{status: http.StatusServiceUnavailable, bare: h}
		}
		return &answer{status: http.StatusOK, bare: h}
	case "sys/seal-status":
		return &answer{status: http.StatusOK, bare: &sealStatus{Type: "shamir", Initialized: true, Sealed: s.sealed, Threshold: 1, Shares: 1, Version: version, Storage: "inmem"}}
	}
	return nil
}

// version is that of the server which this one was compared with.
const version = "2.4.0"

// health is the answer of sys/health, in the server's order.
type health struct {
	Initialized        bool   `json:"initialized"`
	Sealed             bool   `json:"sealed"`
	Standby            bool   `json:"standby"`
	PerformanceStandby bool   `json:"performance_standby"`
	PerformanceMode    string `json:"replication_performance_mode"`
	RecoveryMode       string `json:"replication_dr_mode"`
	Time               int64  `json:"server_time_utc"`
	Version            string `json:"version"`
}

// sealStatus is the answer of sys/seal-status, in the server's order.
type sealStatus struct {
	Type         string `json:"type"`
	Initialized  bool   `json:"initialized"`
	Sealed       bool   `json:"sealed"`
	Threshold    int    `json:"t"`
	Shares       int    `json:"n"`
	Progress     int    `json:"progress"`
	Nonce        string `json:"nonce"`
	Version      string `json:"version"`
	BuildDate    string `json:"build_date"`
	Migration    bool   `json:"migration"`
	RecoverySeal bool   `json:"recovery_seal"`
	Storage      string `json:"storage_type"`
}
