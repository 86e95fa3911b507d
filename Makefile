# Everything here works on a fresh clone with Go, git, make and gcc, as root
# and as an ordinary user. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CGO_ENABLED ?= 1

MODULES       := . test/sanity
GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.8.0
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo v0.0.0-dev)
BENCHTIME     ?= 1s
ROUNDS        ?= 300
VOLUMES       ?= 1000
FUZZTIME      ?= 20s

empty :=
comma := ,
space := $(empty) $(empty)

##@ Use

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: try
try: ## mount secrets from the quickstart example, without root and without a cluster
	go run ./cmd/keymount try

.PHONY: build
build: ## build the three commands into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/...

##@ Check

.PHONY: test
test: vet ## run all tests with the race detector; a skipped test is a failure
	@go run ./test/tally -modules=$(subst $(space),$(comma),$(MODULES)) -- -race -timeout=20m ./...

.PHONY: vet
vet: ## go vet and gofmt
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then printf 'not formatted, run gofmt -w:\n%s\n' "$$unformatted"; exit 1; fi
	@for module in $(MODULES); do (cd $$module && go vet ./...); done

.PHONY: lint
lint: ## golangci-lint, at the version that CI uses
	@for module in $(MODULES); do (echo "lint $$module" && cd $$module && $(GOLANGCI_LINT) run --config=$(CURDIR)/.golangci.yml ./...); done

.PHONY: verify
verify: vet ## fail if generated code or go.mod is out of date
	@for module in $(MODULES); do (cd $$module && go mod tidy -diff); done
	@sums() { git ls-files -co --exclude-standard -z | xargs -0 sha256sum 2>/dev/null || true; }; \
	before=$$(sums); $(MAKE) --no-print-directory generate; \
	diff <(echo "$$before") <(sums) || { echo 'make generate changed these files: commit them'; exit 1; }

.PHONY: sanity
sanity: ## the CSI sanity suite alone, saying what it ran and what not
	cd test/sanity && go test -race -count=1 -v .

.PHONY: cover
cover: ## test coverage by function, least first
	@mkdir -p bin
	@go test -coverpkg=./pkg/...,./providers/...,./cmd/... -coverprofile=bin/cover.out ./... >/dev/null
	@go tool cover -func=bin/cover.out | sort -t'	' -k3 -n | awk '$$NF != "100.0%"'

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (20s)
	@go list -f '{{.Dir}} {{.ImportPath}} {{range .TestGoFiles}}{{.}} {{end}}{{range .XTestGoFiles}}{{.}} {{end}}' ./... | \
	while read -r dir pkg files; do \
		for target in $$(cd "$$dir" && grep -ohE '^func Fuzz[A-Za-z0-9_]+' $${files:-/dev/null} | cut -c6-); do \
			echo "== $$pkg $$target"; go test "$$pkg" -run='^$$' -fuzz="^$$target\$$" -fuzztime=$(FUZZTIME); \
		done; \
	done

.PHONY: bench
bench: ## measure the driver against the floor; OUT=docs/benchmarks.md writes the page
	go run ./test/perf -rounds=$(ROUNDS) -volumes=$(VOLUMES) $(if $(OUT),-o $(OUT))

.PHONY: microbench
microbench: ## the benchmarks of single packages, for BENCHTIME (1s) each
	go test ./... -run='^$$' -bench=. -benchtime=$(BENCHTIME)

##@ Change

.PHONY: generate
generate: ## regenerate code from .proto files and the like
	go generate ./...
