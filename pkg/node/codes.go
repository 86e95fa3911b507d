package node

import (
	"context"
	"errors"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/keymount/keymount/pkg/class"
	"github.com/keymount/keymount/pkg/provider"
	"github.com/keymount/keymount/pkg/publish"
)

// codeOf is the one table from reasons to gRPC codes; the first that matches
// counts.
var codeOf = []struct {
	reason error
	code   codes.Code
}{
	{publish.ErrUnpublished, codes.Aborted},
	{publish.ErrConflict, codes.AlreadyExists},
	{class.ErrNotFound, codes.NotFound},
	{class.ErrInvalid, codes.InvalidArgument},
	{provider.ErrInvalid, codes.InvalidArgument},
	{provider.ErrNotFound, codes.NotFound},
	{provider.ErrDenied, codes.PermissionDenied},
	{context.DeadlineExceeded, codes.DeadlineExceeded},
	{context.Canceled, codes.Canceled},
	{provider.ErrUnavailable, codes.Unavailable},
}

// asStatus returns err as a gRPC status. A code that a provider process
// answered with is kept.
func asStatus(err error) error {
	var answered interface{ GRPCStatus() *status.Status }
	if errors.As(err, &answered) {
		return status.Error(answered.GRPCStatus().Code(), err.Error())
	}
	for _, row := range codeOf {
		if errors.Is(err, row.reason) {
			return status.Error(row.code, err.Error())
		}
	}
	return status.Error(codes.Internal, err.Error())
}
