package azuretest

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// A refusal is an error that a service answers.
type refusal struct {
	status        int
	code, message string
	inner         string // code of the inner error
	retryAfter    string
}

func (r *refusal) Error() string { return r.code + ": " + r.message }

// refuse returns a refusal.
func refuse(status int, code, format string, args ...any) error {
	return &refusal{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

func sendJSON(w http.ResponseWriter, status int, answer any) {
	data, err := json.Marshal(answer)
	if err != nil { // no answer here has a type that JSON does not
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client is gone
}

// An object is one of JSON.
type object map[string]any

// epoch returns a time as numbers of answers have it.
func epoch(t time.Time) int64 { return t.Unix() }

// uuid returns a random UUID.
func uuid() string {
	b := random(16)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

func random(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails
	return b
}
