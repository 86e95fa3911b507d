package metrics

import "sync"

const (
	// maxStrangers bounds the names of providers that have never answered:
	// whoever writes classes may invent them.
	maxStrangers = 32
	// otherName stands for those beyond.
	otherName = "other"
)

// names are the providers that are labels.
type names struct {
	mu        sync.Mutex
	known     map[string]bool
	strangers int // of known, those that came before they answered
}

// label returns the label for the provider of that name, or otherName. One
// that works is a socket on this node, of which there are few.
func (n *names) label(name string, works bool) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case name == "" || n.known[name]:
		return name
	case !works && n.strangers == maxStrangers:
		return otherName
	case !works:
		n.strangers++
	}
	if n.known == nil {
		n.known = make(map[string]bool)
	}
	n.known[name] = true
	return name
}
