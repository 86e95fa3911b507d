package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
)

// EtcdDump calls visit with everything in etcd as it is now, and stops at its
// first error.
func (c *Cluster) EtcdDump(ctx context.Context, visit func(key string, value []byte) error) error {
	if err := c.local("dump etcd"); err != nil {
		return err
	}
	from := []byte{0} // with the end {0}: all keys
	for {
		page, err := etcdRange(ctx, from)
		if err != nil {
			return fmt.Errorf("dump etcd: %w", err)
		}
		for _, pair := range page.KVs {
			if err := visit(string(pair.Key), pair.Value); err != nil {
				return err
			}
			from = append(pair.Key, 0)
		}
		if !page.More {
			return nil
		}
	}
}

// A page is a part of etcd's answer; []byte is base64 in JSON on both sides.
type page struct {
	KVs []struct {
		Key   []byte `json:"key"`
		Value []byte `json:"value"`
	} `json:"kvs"`
	More bool `json:"more"`
}

// etcdRange asks etcd, in JSON, for keys from the given one on.
func etcdRange(ctx context.Context, from []byte) (*page, error) {
	question, err := json.Marshal(map[string]any{"key": from, "range_end": []byte{0}, "limit": 200})
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, etcdURL+"/v3/kv/range", bytes.NewReader(question))
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s", response.Status)
	}
	var answer page
	if err := json.NewDecoder(response.Body).Decode(&answer); err != nil {
		return nil, err
	}
	return &answer, nil
}
