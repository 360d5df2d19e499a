# Installs the programs of the system that Lucid runs, if they are missing (Debian, Ubuntu).
# The same names as in agents/platform/tools.py.

SYSTEM_PACKAGES = \
	java:openjdk-17-jre-headless \
	mvn:maven \
	go:golang \
	git:git \
	redis-server:redis-server \
	Xvfb:xvfb \
	xterm:xterm \
	xeyes:x11-apps \
	xdpyinfo:x11-utils \
	xmessage:x11-utils \
	xsetroot:x11-xserver-utils \
	xdotool:xdotool \
	ffmpeg:ffmpeg \
	openbox:openbox \
	xrdp:xrdp \
	xrdp-sesman:xrdp \
	fusermount:fuse3 \
	rdesktop:rdesktop \
	xfreerdp:freerdp2-x11

MISSING_PACKAGES = $(strip $(foreach pair,$(SYSTEM_PACKAGES),$(shell \
	command -v $(firstword $(subst :, ,$(pair))) >/dev/null || echo $(lastword $(subst :, ,$(pair))))))

# A module of the X server is no program.
MISSING_PACKAGES += $(shell test -e /etc/X11/xrdp/xorg.conf || echo xorgxrdp)

# RUNLEVEL=1 keeps the package's own Redis service from being started at once. Releases
# without Java 17 have a later one as their default.
.PHONY: system-packages
system-packages:
	@missing="$(strip $(MISSING_PACKAGES))"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then \
		echo "Missing system packages, please install: $$missing"; exit 0; \
	fi; \
	echo "Installing $$missing"; \
	log=$$(mktemp); export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1; \
	apt-get update -qq >$$log 2>&1; \
	apt-cache show openjdk-17-jre-headless >/dev/null 2>&1 || \
		missing=$$(echo "$$missing" | sed 's/openjdk-17-jre-headless/default-jre-headless/'); \
	if apt-get install -qq -y --no-install-recommends $$missing >>$$log 2>&1; \
	then rm -f $$log; \
	else tail -n 20 $$log >&2; echo "apt-get failed, its output is in $$log" >&2; exit 1; fi
