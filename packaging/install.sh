#!/bin/sh
# Installs tidegate from this folder on a system without apt, or takes it away again.
#
#   ./install.sh                install, or upgrade to the version in this folder
#   ./install.sh --uninstall    take the program away; configuration and data stay
#   ./install.sh --purge        take everything away: configuration, registry, buffer and user too
#
#   --prefix DIR    where the program goes (default: /usr/local)
#   --root DIR      install into a system's image at DIR; nothing is started
#   --no-start      neither enable nor start the service
#
# Run again, it changes only what differs. /etc/tidegate/tidegate.toml is never overwritten.
set -eu

fail() {
    echo "install.sh: $*" >&2
    exit 1
}

action=install prefix=/usr/local root='' start=yes
while [ $# -gt 0 ]; do
    case $1 in
        --uninstall) action=uninstall ;;
        --purge) action=purge ;;
        --no-start) start= ;;
        --prefix | --root)
            [ $# -ge 2 ] || fail "$1 needs a folder"
            case $1 in
                --prefix) prefix=$2 ;;
                --root) root=${2%/} ;;
            esac
            shift
            ;;
        -h | --help)
            sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
        *) fail "unknown option $1; --help shows what there is" ;;
    esac
    shift
done
case $prefix in
    /*) ;;
    *) fail "--prefix must begin with /" ;;
esac
[ -z "$root" ] || [ -d "$root" ] || fail "--root: there is no folder $root"
[ "$(id -u)" = 0 ] || fail "this must be run by root, for example with sudo"

readonly etc="$root/etc/tidegate"
readonly state="$root/var/lib/tidegate"
readonly units="$root/etc/systemd/system"
# What was installed, so that a later version or --uninstall can take it away.
readonly list="$root$prefix/share/tidegate/installed"

running_systemd() {
    [ -z "$root" ] && [ -d /run/systemd/system ] && command -v systemctl >/dev/null
}

# Whether the image, or this system, has systemd at all.
has_systemd() {
    [ -d "$root/lib/systemd/system" ] || [ -d "$root/usr/lib/systemd/system" ]
}

packaged() {
    [ -e "$root/var/lib/dpkg/info/tidegate.list" ]
}

# ---------------------------------------------------------------- taking it away

remove_program() {
    if running_systemd; then
        systemctl disable --now tidegate.socket tidegate-dashboard.socket tidegate.service >/dev/null 2>&1 || true
    fi
    rm -f "$units/multi-user.target.wants/tidegate.service" "$units/sockets.target.wants/tidegate.socket" \
        "$units/sockets.target.wants/tidegate-dashboard.socket"
    [ ! -f "$list" ] || while IFS= read -r file; do
        rm -f "$root$file"
    done <"$list"
    rm -rf "$root$prefix/share/tidegate" "$root$prefix/share/doc/tidegate"
    if running_systemd; then
        systemctl daemon-reload
    fi
}

# account TOOL ARGUMENT...: in an image with this machine's tool, as the image may be for another one.
account() {
    tool=$1
    shift
    if [ -n "$root" ]; then "$tool" --root "$root" "$@"; else "$tool" "$@"; fi
}

has() {
    command -v "$1" >/dev/null
}

# forget FILE: without tidegate's line.
forget() {
    grep -v '^tidegate:' "$root/etc/$1" >"$root/etc/$1.new" || true
    # Written through, so that owner and mode stay.
    cat "$root/etc/$1.new" >"$root/etc/$1"
    rm -f "$root/etc/$1.new"
}

known() {
    grep -q "^tidegate:" "$root/etc/$1" 2>/dev/null
}

if [ "$action" != install ]; then
    packaged && fail "tidegate is here as a Debian package: apt remove tidegate"
    [ -f "$list" ] || [ "$action" = purge ] || fail "tidegate is not installed below $root$prefix"
    remove_program
    if [ "$action" = purge ]; then
        rm -rf "$etc" "$state"
        if known passwd; then
            if has userdel; then account userdel tidegate; else forget passwd; fi
        fi
        if known group; then
            if has groupdel; then account groupdel tidegate; else forget group; fi
        fi
        echo "tidegate is gone, with its configuration and data"
    else
        echo "tidegate is gone; $etc and $state are still there (--purge takes them too)"
    fi
    exit 0
fi

# ---------------------------------------------------------------- what is here

here=$(cd "$(dirname "$0")" && pwd)
[ -x "$here/tidegate" ] || fail "there is no program beside this script; unpack the whole archive"
packaged && fail "tidegate is here as a Debian package; upgrade it with apt, or remove it first"
# The surest check of the architecture. An image may be for another machine than this one.
if [ -z "$root" ]; then
    version=$("$here/tidegate" --version 2>/dev/null) ||
        fail "this program does not run on this machine ($(uname -m)): take the archive for it"
else
    version=tidegate
fi

# ---------------------------------------------------------------- the user

nologin=/bin/false
for shell in /usr/sbin/nologin /sbin/nologin; do
    [ ! -x "$root$shell" ] || nologin=$shell
done
# Where there are no tools for it, as with a small busybox: a number that nobody has.
free=999
while grep -q "^[^:]*:[^:]*:$free:" "$root/etc/passwd" "$root/etc/group"; do
    free=$((free - 1))
done
if ! known group; then
    if has groupadd; then account groupadd --system tidegate; else echo "tidegate:!:$free:" >>"$root/etc/group"; fi
fi
gid=$(sed -n 's/^tidegate:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/group")
if ! known passwd; then
    if has useradd; then
        account useradd --system --gid "$gid" --home-dir /var/lib/tidegate --no-create-home \
            --shell "$nologin" --comment "IoT telemetry gateway" tidegate
    else
        echo "tidegate:!:$free:$gid:IoT telemetry gateway:/var/lib/tidegate:$nologin" >>"$root/etc/passwd"
    fi
fi
# By number: the names of an image are not those of this machine.
uid=$(sed -n 's/^tidegate:[^:]*:\([0-9]*\):.*/\1/p' "$root/etc/passwd")

# ---------------------------------------------------------------- the files

new=$(mktemp)
trap 'rm -f "$new"' EXIT

# put MODE FROM TO: beside the old file and renamed over it, so that a running program is not disturbed.
put() {
    mkdir -p "$root${3%/*}"
    cp "$2" "$root$3.new"
    chmod "$1" "$root$3.new"
    mv -f "$root$3.new" "$root$3"
    echo "$3" >>"$new"
}

put 755 "$here/tidegate" "$prefix/bin/tidegate"
for page in "$here"/man/*; do
    plain=${page%.gz}
    put 644 "$page" "$prefix/share/man/man${plain##*.}/${page##*/}"
done
put 644 "$here/completions/bash/tidegate" "$prefix/share/bash-completion/completions/tidegate"
put 644 "$here/completions/fish/tidegate.fish" "$prefix/share/fish/vendor_completions.d/tidegate.fish"
put 644 "$here/completions/zsh/_tidegate" "$prefix/share/zsh/site-functions/_tidegate"
for file in "$here"/doc/*.* "$here"/LICENSE-*; do
    put 644 "$file" "$prefix/share/doc/tidegate/${file##*/}"
done
(cd "$here/doc" && find examples -type f) | while IFS= read -r file; do
    put 644 "$here/doc/$file" "$prefix/share/doc/tidegate/$file"
done
put 755 "$here/install.sh" "$prefix/share/tidegate/install.sh"
if has_systemd; then
    for unit in tidegate.service tidegate.socket tidegate-dashboard.socket; do
        sed "s|/usr/bin/tidegate|$prefix/bin/tidegate|g" "$here/systemd/$unit" >"$new.unit"
        put 644 "$new.unit" "/etc/systemd/system/$unit"
        rm -f "$new.unit"
    done
    if [ -f "$here/systemd/tidegate.catalog" ]; then
        put 644 "$here/systemd/tidegate.catalog" /etc/systemd/catalog/tidegate.catalog
        if running_systemd; then
            journalctl --update-catalog >/dev/null 2>&1 || true
        fi
    fi
fi
# What the version before had and this one has not.
if [ -f "$list" ]; then
    while IFS= read -r file; do
        grep -qxF "$file" "$new" || rm -f "$root$file"
    done <"$list"
    first=
else
    first=yes
fi
mkdir -p "${list%/*}"
cat "$new" >"$list"

# ---------------------------------------------------------------- configuration and data

if [ ! -d "$etc" ]; then
    mkdir -p "$etc"
    chown 0:"$gid" "$etc"
    chmod 750 "$etc"
fi
if [ ! -e "$etc/tidegate.toml" ]; then
    cp "$here/tidegate.toml" "$etc/tidegate.toml"
    chown 0:"$gid" "$etc/tidegate.toml"
    chmod 640 "$etc/tidegate.toml"
    # Empty, not absent: with client certificates an absent registry lets every certificate in.
    if [ ! -e "$etc/devices.toml" ]; then
        (
            umask 077
            echo '# Who may connect. "tidegate device add ID" registers a device; see tidegate-device(1).' \
                >"$etc/devices.toml"
        )
        chown 0:"$gid" "$etc/devices.toml"
        chmod 640 "$etc/devices.toml"
    fi
fi
if [ ! -d "$state" ]; then
    mkdir -p "$state"
    chown "$uid:$gid" "$state"
    chmod 700 "$state"
fi

# ---------------------------------------------------------------- the service

if running_systemd && [ -n "$start" ]; then
    systemctl daemon-reload
    if [ -n "$first" ]; then
        systemctl enable tidegate.service
        systemctl start tidegate.service || fail "the service does not start; journalctl -u tidegate says why"
    elif systemctl is-active --quiet tidegate.service; then
        systemctl restart tidegate.service || fail "the service does not start; journalctl -u tidegate says why"
    fi
    echo "$version is installed; systemctl status tidegate shows how it is doing"
elif has_systemd; then
    running_systemd && systemctl daemon-reload
    echo "$version is installed; systemctl enable --now tidegate starts it"
else
    echo "$version is installed. There is no systemd here: have your init run, as the user tidegate,"
    echo "    $prefix/bin/tidegate run --config /etc/tidegate/tidegate.toml"
    echo "and start it again when it ends."
fi
