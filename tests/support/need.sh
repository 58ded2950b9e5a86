# For tests/run, tests/cross and cross/build: what the machine lacks is installed (Debian; root or sudo).
# shellcheck shell=bash

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# need COMMAND PACKAGE...: installs the packages where the command is missing.
need() {
    local command=$1
    shift
    command -v "$command" >/dev/null && return
    # Not two at once: apt does not wait for itself.
    (
        flock 9
        install_for "$command" "$@"
    ) 9>"${TMPDIR:-/tmp}/tidegate-need-$(id -u)"
}

install_for() {
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

# from_debian FOLDER ARCHITECTURE RELEASE PACKAGE...: unpacks packages of a Debian release there, beside
# the system: apt fetches and checks them, with lists of its own, on the mirrors and with the keys that
# this machine has. Fails where no mirror has them; FOLDER/log says why.
from_debian() {
    local folder=$1 architecture=$2 release=$3 keys=/usr/share/keyrings/debian-archive-keyring.gpg
    local mirror package
    shift 3
    [ -e $keys ] || as_root apt-get -qq -y install debian-archive-keyring
    mkdir -p "$folder"/{lists,archives}/partial
    folder=$(realpath "$folder")
    local apt=(apt-get -qq -o "Dir::State::Lists=$folder/lists" -o Dir::State::status=/dev/null
        -o "Dir::Etc::SourceList=$folder/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::Etc::PreferencesParts=/dev/null -o "Dir::Cache::archives=$folder/archives"
        -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache= -o Acquire::Languages=none
        -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
        -o APT::Sandbox::User= -o APT::Update::Error-Mode=any -o Acquire::Retries=2)
    # shellcheck disable=SC2016 # filled in by apt
    for mirror in $(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | sort -u); do
        echo "deb [signed-by=$keys] $mirror $release main" >"$folder/sources.list"
        if "${apt[@]}" update >"$folder/log" 2>&1 &&
            (cd "$folder" && "${apt[@]}" download "$@" >>log 2>&1); then
            for package in "$folder"/*.deb; do
                dpkg -x "$package" "$folder"
            done
            rm -rf "$folder"/{lists,archives,sources.list,log,*.deb}
            return
        fi
    done
    return 1
}
