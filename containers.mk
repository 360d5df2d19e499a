# Containers: build, run and validate them. What they need is installed as root on Debian; an
# engine is started if none runs, and ended by `make containers-stop`.

CONTAINER_PACKAGES = \
	dockerd:docker.io \
	iptables:iptables \
	jlink:openjdk-17-jdk-headless \
	mmdebstrap:mmdebstrap

MISSING_CONTAINER_PACKAGES = $(strip $(foreach pair,$(CONTAINER_PACKAGES),$(shell \
	command -v $(firstword $(subst :, ,$(pair))) >/dev/null || echo $(lastword $(subst :, ,$(pair))))))

DEPLOY ?= .lucid/deploy
COMPOSE = docker compose --env-file $(DEPLOY)/.env -f compose/phase3.yml -f compose/standins.yml \
	$(if $(SECURE),-f compose/phase3.secure.yml)

.PHONY: container-packages
container-packages:
	@missing="$(MISSING_CONTAINER_PACKAGES)"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		if docker info >/dev/null 2>&1; then exit 0; fi; \
		echo "Missing system packages, please install: $$missing"; exit 1; \
	fi; \
	echo "Installing $$missing"; \
	export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
	apt-get update -qq >/dev/null 2>&1; \
	apt-get install -qq -y --no-install-recommends $$missing >/dev/null

.PHONY: container-engine
container-engine: setup container-packages
	@$(BIN)/python -m containers engine start

.PHONY: containers
containers: container-engine ## build the images of all services and of their servers
	@nice -n 10 $(BIN)/python -m containers build
	@nice -n 10 $(BIN)/python -m containers standins

.PHONY: compose
compose: setup ## write the compose files and the Kubernetes base from the code
	@$(BIN)/python -m containers compose

.PHONY: up
up: containers ## start everything in containers, wait until it is healthy; SECURE=1 with passwords
	@$(BIN)/lucid init --folder $(DEPLOY) $(if $(SECURE),--secure)
	@$(COMPOSE) up -d $$($(BIN)/python -m containers names)
	@$(BIN)/python -m containers wait

.PHONY: validate
validate: up ## start the containers and check them; SECURE=1 with passwords
	@$(BIN)/lucid validate containers

.PHONY: down
down: ## end the containers, and delete their volumes with PURGE=1
	@$(COMPOSE) --profile tools down -t 15 $(if $(PURGE),-v)

.PHONY: containers-test
containers-test: containers ## break the containers on purpose, and see that validation says so
	@LUCID_TEST_DOCKER=1 nice -n 10 $(BIN)/python -m pytest -q tests/containers

.PHONY: containers-stop
containers-stop: ## end the engine that was started here
	@$(BIN)/python -m containers engine stop

K8SCHECK = $(HOME)/.cache/lucid/k8scheck
$(K8SCHECK): containers/k8scheck/main.go containers/k8scheck/go.mod
	@cd containers/k8scheck && nice -n 10 go build -trimpath -o $@ .

KUSTOMIZE = $(HOME)/.cache/lucid/kustomize
$(KUSTOMIZE):
	@GOBIN=$(dir $@) nice -n 10 go install -trimpath sigs.k8s.io/kustomize/kustomize/v5@v5.4.3

.PHONY: k8s
k8s: compose $(K8SCHECK) $(KUSTOMIZE) ## check the Kubernetes base: kustomize, the API's types, PodSecurity restricted
	@built=$$($(KUSTOMIZE) build compose/k8s) && printf '%s\n' "$$built" | $(K8SCHECK)

PROMTOOL = $(HOME)/.cache/lucid/promtool
PROMETHEUS = github.com/prometheus/prometheus@v0.53.2
# Its module replaces others, which only a build inside of it may do.
$(PROMTOOL):
	@folder=$$(mktemp -d) && cd $$folder && printf 'module x\n' >go.mod && \
		cp -r "$$(go mod download -json $(PROMETHEUS) | sed -n 's/.*"Dir": "\(.*\)",/\1/p')" source && \
		chmod -R u+w source && cd source && nice -n 10 go build -trimpath -o $@ ./cmd/promtool && \
		rm -rf $$folder

.PHONY: alerts
alerts: compose $(PROMTOOL) ## check the alert rules and the configuration of Prometheus
	@cd compose/monitoring && $(PROMTOOL) check config prometheus.yml
