# For tests/run and cross/build: what the machine lacks is installed (Debian; root or sudo).
# shellcheck shell=bash

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# need COMMAND PACKAGE...: installs the packages where the command is missing.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null && return
    echo "installing $*"
    # Debian starts a service when its package is installed; the tests start their own.
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 755 $policy
        made=yes
    fi
    local status=0
    as_root apt-get -qq update || status=$?
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -y install --no-install-recommends "$@" || status=$?
    [ -z "$made" ] || as_root rm -f $policy
    command -v "$command" >/dev/null || {
        echo "$command is missing and apt-get install $* failed with $status"
        return 1
    }
}
