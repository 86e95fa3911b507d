#!/bin/sh
# Regenerates the Go code of the two protocols. Needs Go and protoc; as root
# on Debian or Ubuntu it installs protoc itself. The Go plugins are pinned:
# protoc-gen-go by go.mod, protoc-gen-go-grpc here.
set -eu
cd "$(dirname "$0")/../.."

if ! command -v protoc >/dev/null; then
	if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
		echo "generate.sh: protoc is missing: install protobuf-compiler" >&2
		exit 1
	fi
	apt-get update -qq
	apt-get install -y -qq protobuf-compiler >/dev/null
fi

GOBIN=$(mktemp -d)
trap 'rm -rf "$GOBIN"' EXIT
export GOBIN
go install google.golang.org/protobuf/cmd/protoc-gen-go
go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.0

PATH="$GOBIN:$PATH" protoc \
	--go_out=. --go_opt=paths=source_relative \
	--go-grpc_out=. --go-grpc_opt=paths=source_relative \
	pkg/plugin/v1alpha1/service.proto pkg/plugin/keymountv1/keymount.proto
