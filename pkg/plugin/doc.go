// Package plugin speaks the v1alpha1 provider protocol of the Secrets Store
// CSI driver in both directions: a Dir turns sockets into Providers, and Serve
// turns a Provider into a socket. Either end works with peers that know only
// v1alpha1; between two ends of this package nothing of a Request or a Bundle
// is lost.
//
// # The socket
//
// The provider NAME listens on the unix socket NAME.sock in one of the
// directories of a Dir. There is no TLS: whoever may connect is decided by the
// file system, and by ServeOptions.AllowedUIDs. The sockets are looked at
// before each call, so one that was replaced or moved is dialled anew; calls
// on the old connection end in peace.
//
// # What v1alpha1 cannot say
//
// gRPC metadata carries the rest; peers that do not know it ignore it. Times
// are RFC 3339 with nanoseconds in UTC. In requests and replies:
//
//	keymount-lease-id-bin   Lease.ID, any bytes
//	keymount-lease-expires  Lease.Expires
//
// In requests only:
//
//	keymount-class          Request.Class
//	keymount-facts-bin      Request.Facts, a JSON object; at most 16, of 8 KiB each
//
// In replies only, as headers (trailers are understood too):
//
//	keymount-refresh        Bundle.Refresh
//	keymount-expires        Bundle.Expires
//	keymount-empty          "true": the volume has no files, and is not Unchanged
//	keymount-warnings-bin   Bundle.Warnings, a JSON list of objects with reason,
//	                        which is "Expired", and message, one line of at most
//	                        512 bytes of printable text; at most 64
//
// With an error PermissionDenied only, as a trailer:
//
//	keymount-missing-audience-bin
//	                        MissingTokenError.Audience, printable text of at most
//	                        1024 bytes; empty for the API server's own
//
// With an error InvalidArgument only, as a trailer:
//
//	keymount-missing-facts-bin
//	                        MissingFactsError.Facts, a JSON list of one to 16
//	                        names "serviceaccount/KEY" and "node/KEY" of
//	                        annotations and labels
//
// Two optional gRPC services on the same socket, of the package keymount.v1,
// carry provider.Notifier and provider.Releaser.
//
// # Versions
//
// Held versions are sent in the order of their IDs. An empty version means
// "unknown", which providers may answer with: it is kept, and is not sent back
// as held, so the object counts as changed at each fetch. A reply with
// versions and no files means Bundle.Unchanged: the peer either holds the same
// versions or wrote the files itself.
//
// # Errors
//
// A provider's gRPC code is kept, and decides which sentinel of package
// provider the error wraps. Its message is not trusted: it is shortened, rid
// of control characters, and the tokens and credentials of the request are
// masked in it. So they are in warnings.
package plugin

//go:generate ./generate.sh
