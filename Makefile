# Everything here works on a fresh clone with Go, git, make and gcc, as root
# and as an ordinary user. `make help` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CGO_ENABLED ?= 1

MODULES       := . test/sanity test/observability test/bench
CHECKED       := $(MODULES) test/stores test/e2e
GOLANGCI_LINT := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.8.0
VERSION       ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo v0.0.0-dev)
BENCHTIME     ?= 1s
ROUNDS        ?= 300
VOLUMES       ?= 1000
FUZZTIME      ?= 20s

IMAGE         ?= ghcr.io/keymount/keymount:$(VERSION)
PLATFORMS     ?= linux/amd64,linux/arm64
OUTPUT        ?= type=oci,dest=bin/image.tar

# Helm takes minutes to build, so a user of this machine builds it once.
HELM_VERSION := v4.3.1
HELM         ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/keymount/helm-$(HELM_VERSION)/helm
CHART        := deploy/helm/keymount

empty :=
comma := ,
space := $(empty) $(empty)

##@ Use

.PHONY: help
help: ## list the targets
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: try
try: ## mount secrets from the quickstart example, without root and without a cluster
	go run ./cmd/keymount try

.PHONY: build
build: ## build the three commands into bin/
	CGO_ENABLED=0 GOEXPERIMENT=runtimesecret go build -trimpath -buildvcs=false -ldflags '-s -w -X main.version=$(VERSION)' -o bin/ ./cmd/...

.PHONY: sbom
sbom: build ## build, and write what each command is made of: bin/*.cdx.json (CycloneDX)
	go run ./deploy/sbom -version=$(VERSION) bin/keymount bin/keymount-driver bin/keymount-provider

.PHONY: image
image: ## build the image for PLATFORMS with docker buildx into OUTPUT (bin/image.tar)
	@mkdir -p bin
	docker buildx build --file deploy/Dockerfile --platform $(PLATFORMS) --build-arg VERSION=$(VERSION) \
		--build-arg REVISION=$(shell git rev-parse HEAD) --tag $(IMAGE) --output $(OUTPUT) .

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
	@for module in $(CHECKED); do (echo "lint $$module" && cd $$module && $(GOLANGCI_LINT) run --config=$(CURDIR)/.golangci.yml ./...); done

.PHONY: verify
verify: vet vuln rebuild ## fail if generated code or go.mod is out of date, and if vuln or rebuild fails
	@for module in $(CHECKED); do (cd $$module && go vet ./... && go mod tidy -diff); done
	@sums() { git ls-files -co --exclude-standard -z | xargs -0 sha256sum 2>/dev/null || true; }; \
	before=$$(sums); $(MAKE) --no-print-directory generate; \
	diff <(echo "$$before") <(sums) || { echo 'make generate changed these files: commit them'; exit 1; }

.PHONY: vuln
vuln: ## govulncheck: says NOT CHECKED where its database is out of reach, and fails then if GOVULNDB names it
	@go run ./test/vuln ./cmd/...

# Two copies of the work tree, in folders of other names, one of them with an
# empty cache, give the same programs and SBOMs: no path, no time, and nothing
# that was built before goes into them. Another release of Go makes other ones.
.PHONY: rebuild
rebuild: ## build twice, from nothing and as usual, and compare every byte (two to three minutes)
	@go run ./test/rebuild -version=$(VERSION)

.PHONY: chart
chart: $(HELM) ## helm lint, with the values of every rendered variant
	@for values in $(CHART)/values.yaml test/deploy/testdata/values-*.yaml; do $(HELM) lint --strict --quiet --values "$$values" $(CHART); done

.PHONY: test-stores
test-stores: ## the providers against real stores, as root: OpenBao and PostgreSQL; SOAK=1 soaks for an hour
	@go run ./test/tally -v -modules=test/stores -- -count=1 -timeout=$(if $(SOAK),90m,30m) ./...

.PHONY: e2e
e2e: ## all tests in a real cluster: of our own making (as root), or that of KUBECONFIG
	@go run ./test/tally -v -modules=test/e2e -- -count=1 -timeout=55m ./...

.PHONY: sanity
sanity: ## the CSI sanity suite alone, saying what it ran and what not
	cd test/sanity && go test -race -count=1 -v .

# Building promtool takes some minutes, once.
.PHONY: rules
rules: ## promtool checks the alerts of deploy/dashboards, and runs their tests
	cd test/observability && version=$$(go list -m -f '{{.Version}}' github.com/prometheus/prometheus) && cd ../../deploy/dashboards && \
	GOFLAGS= go run github.com/prometheus/prometheus/cmd/promtool@$$version check rules --lint-fatal alerts.yaml && \
	GOFLAGS= go run github.com/prometheus/prometheus/cmd/promtool@$$version test rules alerts_test.yaml

.PHONY: cover
cover: ## test coverage by function, least first
	@mkdir -p bin
	@go test -coverpkg=./pkg/...,./providers/...,./cmd/... -coverprofile=bin/cover.out ./... >/dev/null
	@go tool cover -func=bin/cover.out | sort -t'	' -k3 -n | awk '$$NF != "100.0%"'

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (20s), as many at once as there are processors
	@go run ./test/fuzz -modules=$(subst $(space),$(comma),$(CHECKED)) -time=$(FUZZTIME)

.PHONY: bench
bench: ## measure the driver against the floor; OUT=docs/benchmarks.md writes the page
	go run ./test/perf -rounds=$(ROUNDS) -volumes=$(VOLUMES) $(if $(OUT),-o $(OUT))

.PHONY: bench-peers
bench-peers: ## measure against the upstream driver, and write docs/performance.md; QUICK=1: in five minutes; E2E=1: pods in a cluster too
	cd test/bench && go run . -o ../../docs $(if $(QUICK),-quick) $(if $(E2E),-e2e)

.PHONY: microbench
microbench: ## the benchmarks of single packages, for BENCHTIME (1s) each
	go test ./... -run='^$$' -bench=. -benchtime=$(BENCHTIME)

##@ Change

.PHONY: generate
generate: manifests ## regenerate code from .proto files and the like, and the manifests
	go generate ./...

# render OUT [FLAGS] renders the chart for who does not use Helm: without Helm's own labels.
render = { echo '\# Rendered from $(CHART) by `make manifests` for Kubernetes 1.35 or later. Do not edit.'; \
	$(HELM) template keymount $(CHART) --namespace kube-system --kube-version 1.36.0 $(2) | \
	sed -e '/^ *helm.sh\/chart: /d' -e '/^ *app.kubernetes.io\/managed-by: Helm$$/d' -e '/^\# Source: /d'; } >$(1)

.PHONY: manifests
manifests: $(HELM) ## render deploy/manifests, and variants for test/deploy, from the Helm chart
	@$(call render,deploy/manifests/crds.yaml,--show-only templates/crds.yaml --set crds.keep=false)
	@$(call render,deploy/manifests/keymount.yaml,--set crds.install=false)
	@$(call render,deploy/manifests/keymount-sync.yaml,--set crds.install=false --set syncSecrets.enabled=true)
	@for values in test/deploy/testdata/values-*.yaml; do \
		$(call render,"$${values/values-/}",--set crds.install=false --values "$$values" --api-versions monitoring.coreos.com/v1); \
	done

.PHONY: dashboard
dashboard: ## draw the dashboard, with real traffic of two minutes, into docs/observability.svg
	cd test/observability && go run . -o ../../docs/observability.svg

$(HELM):
	CGO_ENABLED=0 GOFLAGS= GOBIN=$(@D) go install -trimpath -ldflags='-s -w' helm.sh/helm/v4/cmd/helm@$(HELM_VERSION)
