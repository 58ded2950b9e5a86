# For tests/cross/pages and tests/cross/board: an emulated machine with Debian's kernel for arm64 that
# has pages of 16 KiB, on the processor of a Raspberry Pi 5, which has them too. After tests/support/need.sh.
# shellcheck shell=bash

# fetch_kernel FOLDER: unpacks it there, with a busybox and the C library, unless that was done.
# Sets $kernel and $release.
fetch_kernel() {
    local folder=$1
    if [ ! -e "$folder/complete" ]; then
        echo "fetching Debian's kernel for arm64 with pages of 16 KiB"
        rm -rf "$folder"
        from_debian "$folder" arm64 trixie '^linux-image-[0-9].*[0-9]-arm64-16k$' busybox-static libc6 || {
            cat "$folder/log" >&2
            return 1
        }
        ln -sfn usr/lib "$folder/lib"
        touch "$folder/complete"
    fi
    kernel=$(find "$folder/boot" -name 'vmlinuz-*' | sort -V | tail -n 1)
    release=${kernel##*/vmlinuz-}
    depmod -b "$folder" "$release"
}

# make_initrd FOLDER FILE PROGRAM MODULE...: what loads the modules of the kernel in FOLDER and goes on with
# the program of the first disk.
make_initrd() {
    local folder=$1 file=$2 program=$3 tree module name
    shift 3
    tree=$(mktemp -d)
    mkdir -p "$tree"/{bin,modules,proc,sys,dev,mnt}
    cp "$folder/usr/bin/busybox" "$tree/bin/"
    for module in virtio_blk ext4 "$@"; do
        modprobe -d "$folder" -S "$release" --show-depends "$module"
    done | awk '$1 == "insmod" && !seen[$2]++ { print $2 }' | while read -r module; do
        name=$(basename "$module" .xz)
        xz -dc "$module" >"$tree/modules/$name"
        echo "$name" >>"$tree/modules/order"
    done
    cat >"$tree/init" <<I
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs dev /dev
while read module; do /bin/busybox insmod /modules/\$module; done </modules/order
while [ ! -b /dev/vda ]; do /bin/busybox usleep 50000; done
/bin/busybox mount -t ext4 /dev/vda /mnt
for folder in dev proc sys; do /bin/busybox mount --move /\$folder /mnt/\$folder; done
exec /bin/busybox switch_root /mnt $program
I
    chmod +x "$tree/init"
    (cd "$tree" && find . | cpio --quiet -o -H newc | gzip -1) >"$file"
    rm -rf "$tree"
}

# emulate LOG WORDS OPTION...: boots it with these words for the kernel and further options for qemu, and
# waits until it turns itself off. What it says on its console is in LOG.
emulate() {
    local log=$1 words=$2
    shift 2
    timeout 1800 qemu-system-aarch64 -M virt -cpu cortex-a76 -smp 2 -m 512 -accel tcg,thread=multi \
        -nographic -no-reboot -kernel "$kernel" -append "console=ttyAMA0 rw quiet panic=-1 $words" "$@" \
        </dev/null >"$log.raw" 2>&1 || {
        tail -n 60 "$log.raw"
        return 1
    }
    tr -d '\r' <"$log.raw" >"$log"
    rm "$log.raw"
}

# disk FILE MEGABYTES [FOLDER]: options for qemu: a disk with ext4 that holds what the folder does.
disk() {
    local file=$1 name
    name=$(basename "$file")
    truncate -s "${2}M" "$file"
    mke2fs -q -t ext4 ${3:+-d "$3"} "$file"
    drive+=(-drive "file=$file,if=none,id=$name,format=raw,cache=unsafe" -device "virtio-blk-pci,drive=$name")
}
