#!/bin/sh
# Makes a base image of the one that it lies on, whose root file system is $1: adds Debian packages
# $3 …, and finishes it with the script $2. In the work folder are apt.conf, if there are packages,
# and wheels.
#
# As mmdebstrap does it, the host's apt fetches and checks packages, and the image's dpkg unpacks
# them.
set -eu
root=$1
script=$2
shift 2
rootfs=${0%/*}
work=${rootfs%/*}
unset TMPDIR
for name in proc dev; do
    mkdir -p "$root/$name"
    mount --rbind "/$name" "$root/$name"
done
if [ $# -gt 0 ]; then
    mkdir -p "$work/out/lists/partial"
    printf 'Dir "%s";\nDPkg::Chroot-Directory "%s";\n' "$root" "$root" |
        cat - "$work/apt.conf" >"$work/out/apt.conf"
    export APT_CONFIG="$work/out/apt.conf" DEBIAN_FRONTEND=noninteractive
    echo 'I: downloading package lists...'
    apt-get --quiet --yes --error-on=any update
    echo 'I: installing packages...'
    apt-get --quiet --yes install "$@"
fi
echo 'I: running its last script...'
sh "$rootfs/$script" "$root" "$work/wheels" "$work/out/env"
# What was mounted in them is locked: mounts of whoever made the sandbox.
umount --lazy "$root/proc" "$root/dev"
