# castellan: `make help` lists the targets. Everything that a target needs and a fresh machine lacks is
# installed by `make setup` (Debian packages as root, Go modules by the go command).

GO      ?= go
BIN     := bin
CACHE   ?= $(HOME)/.cache/castellan
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X castellan.dev/internal/version.Version=$(VERSION)
PACKAGES := postgresql chromium

.DEFAULT_GOAL := build
.PHONY: help setup build test short race replay lint vet workflowcheck demo faults bench dev golden vuln clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: ## install what builds and tests need
	@sh scripts/setup

build: ## build the binaries into bin/
	$(GO) build -ldflags "$(LDFLAGS)" -o $(BIN)/ ./cmd/...

test: setup vet ## everything that CI runs
	@bash scripts/test

short: ## unit tests of the packages without servers
	$(GO) test -short ./activities/... ./workflows/... ./internal/... ./schedules/... ./workers/...

race: ## tests of the concurrent packages under the race detector
	$(GO) test -race ./activities/... ./workflows/... ./schedules/... ./internal/ledger ./internal/identity ./internal/codec ./internal/keyring ./internal/policy ./internal/config

replay: ## replay the recorded histories
	$(GO) test -count=1 ./testsuite/histories

lint: vet workflowcheck ## static checks

vet: ## gofmt and go vet
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo "not gofmt'ed"; exit 1; }
	$(GO) vet ./...

workflowcheck: ## workflow code is deterministic
	$(GO) tool workflowcheck ./workflows/...

demo: build ## watch certificates being rotated under load while workers are killed
	@$(BIN)/castellan-dev demo

faults: setup build ## the whole fault matrix
	$(GO) test -v -count=1 -timeout 60m -run "TestMatrix|Caught" ./testsuite/faults -args -matrix=full

bench: setup ## ratios against a baseline of the same run
	$(GO) test -count=1 -run '^$$' -bench . -benchtime 1x -timeout 30m ./testsuite/bench

dev: build ## run castellan-dev
	$(BIN)/castellan-dev

golden: ## renew golden files
	$(GO) test ./internal/config ./cmd/castellan -update

vuln: ## known vulnerabilities in dependencies
	$(GO) run golang.org/x/vuln/cmd/govulncheck@v1.1.4 ./...

clean: ## remove what was built
	rm -rf $(BIN)
