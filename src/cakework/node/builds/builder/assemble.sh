#!/bin/sh
# Puts the root file system of builder machines together, beside this script in out/:
#   assemble.sh <image of the builder> [<base image> <the name it gets>]…
#
# Base images lie in it unpacked, in a storage of their own that buildah only reads.
set -eu
work=$(dirname "$0")
container=$(buildah from --pull-never --signature-policy /b/etc/policy.json "$1")
trap 'buildah rm "$container" >/dev/null' EXIT
shift
root=$(buildah mount "$container")
cp -a "$root/." "$work/tree"
buildah umount "$container" >/dev/null
while [ $# -gt 0 ]; do
    skopeo --policy /b/etc/policy.json --tmpdir "$work/tmp" copy --quiet "containers-storage:$1" \
        "containers-storage:[overlay@$work/tree/bases+$work/tmp/run]$2"
    shift 2
done
mkdir -p "$work/tree/usr/lib/cakework"
cp "$work/builder.sh" "$work/tree/usr/lib/cakework/builder"
chmod 755 "$work/tree/usr/lib/cakework/builder"
mkfs.erofs --quiet --preserve-mtime -U 00000000-0000-0000-0000-000000000000 \
    "$work/out/rootfs.erofs" "$work/tree" >&2
