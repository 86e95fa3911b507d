package awstest

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// An epoch is a time in JSON: seconds, with three digits of a fraction.
type epoch time.Time

func (e epoch) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Time(e).UnixMilli())/1000, 'f', -1, 64), nil
}

func writeJSON(w http.ResponseWriter, _, _ string, answer any) {
	sendJSON(w, http.StatusOK, "application/x-amz-json-1.1", answer)
}

func writeJSONRefusal(w http.ResponseWriter, _ string, r *refusal) {
	answer, name := map[string]string{"__type": r.code}, "message"
	if r.code == "AccessDeniedException" { // which is not the service's own
		name = "Message"
	}
	if r.message != "" {
		answer[name] = r.message
	}
	sendJSON(w, r.status, "application/x-amz-json-1.1", answer)
}

func sendJSON(w http.ResponseWriter, status int, kind string, answer any) {
	data, err := json.Marshal(answer)
	if err != nil { // no answer here has a type that JSON does not
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = w.Write(data) // the client is gone
}

// stsNamespace is that of all elements of STS.
const stsNamespace = "https://sts.amazonaws.com/doc/2011-06-15/"

// writeXML answers <operation>Response with what the answer says its name is.
func writeXML(w http.ResponseWriter, id, operation string, answer any) {
	type response struct {
		XMLName xml.Name
		Result  any
		ID      string `xml:"ResponseMetadata>RequestId"`
	}
	sendXML(w, http.StatusOK, response{xml.Name{Space: stsNamespace, Local: operation + "Response"}, answer, id})
}

func writeXMLRefusal(w http.ResponseWriter, id string, r *refusal) {
	type response struct {
		XMLName xml.Name
		Type    string `xml:"Error>Type"`
		Code    string `xml:"Error>Code"`
		Message string `xml:"Error>Message"`
		ID      string `xml:"RequestId"`
	}
	who := "Sender"
	if r.status >= http.StatusInternalServerError {
		who = "Receiver"
	}
	sendXML(w, r.status, response{xml.Name{Space: stsNamespace, Local: "ErrorResponse"}, who, r.code, r.message, id})
}

func sendXML(w http.ResponseWriter, status int, answer any) {
	data, err := xml.MarshalIndent(answer, "", "  ")
	if err != nil { // no answer here has a type that XML does not
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n')) // the client is gone
}

// formInput returns the members of a form as a JSON object of texts.
func formInput(form url.Values) []byte {
	members := map[string]string{}
	for name := range form {
		if name != "Action" && name != "Version" {
			members[name] = form.Get(name)
		}
	}
	data, err := json.Marshal(members)
	if err != nil { // texts always are JSON
		return nil
	}
	return data
}

// decode reads the input of an operation, and checks it as check does.
func decode(body []byte, in any) error {
	if len(bytes.TrimSpace(body)) == 0 {
		body = []byte("{}")
	}
	var given map[string]json.RawMessage
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := json.Unmarshal(body, &given); err != nil {
		return refuse("SerializationException", "%v", err)
	}
	if err := decoder.Decode(in); err != nil {
		return refuse("SerializationException", "%v", err)
	}
	return check(given, in)
}

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

// characters returns n random ones of the alphabet.
func characters(n int, alphabet string) string {
	b := random(n)
	for i := range b {
		b[i] = alphabet[int(b[i])%len(alphabet)]
	}
	return string(b)
}

const (
	letters  = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	idLetter = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
	anyOf64  = letters + "0123456789+/"
)
