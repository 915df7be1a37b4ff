# `make` alone prints what there is to make.
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# Longer than the slowest package takes on two busy cores with the race detector on.
TIMEOUT ?= 30m
# For more of go test, such as TESTFLAGS='-count=1 -run TestRelay'.
TESTFLAGS ?=
PACKAGES ?= ./...

.DEFAULT_GOAL := help
.PHONY: help fetch up down test orm lint bench

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

fetch: ## download the Go modules that the others need, and build the linter
	go mod download
	go -C examples/orm mod download
	go run $(GOLANGCI_LINT) version

up: ## start the servers that the tests need (PostgreSQL, RabbitMQ, MariaDB)
	scripts/services up

down: ## stop what `make up` started
	scripts/services down

# All is built first, on all cores; then one package runs at a time, for each has the servers and the
# cores at work by itself. The race detector needs cgo, and that a C compiler with the C library's headers.
test: up ## run all tests, with the race detector where a C compiler is at hand
	@race=; \
	if [ "$$(go env CGO_ENABLED)" = 1 ] && echo '#include <stdlib.h>' | $$(go env CC) -E -x c - >/dev/null 2>&1; \
	then race=-race; \
	else echo 'no C compiler (or no C headers): the tests run without the race detector' >&2; fi; \
	set -x; go test $$race -run '^$$' $(PACKAGES) >/dev/null && go test $$race -p 1 -timeout $(TIMEOUT) $(TESTFLAGS) $(PACKAGES)

orm: up ## run the examples with GORM, bun, sqlx, sqlc and pgx, a module of its own
	cd examples/orm && go vet ./... && go test -timeout $(TIMEOUT) $(TESTFLAGS) ./...

lint: ## check style, import rules and formatting (builds golangci-lint at the first run)
	go run $(GOLANGCI_LINT) run $(PACKAGES)
	cd examples/orm && go run $(GOLANGCI_LINT) run ./...

bench: up ## run the load programs; each prints a ratio to its reference
	go run ./bench
