#!/bin/sh
# Turns the image $1 into $2/rootfs.erofs and $2/image.json.
#
# Times of files are kept as they are: Python, for one, trusts its compiled files by them.
# Uncompressed, as the image is read by machines that may be emulated.
set -eu
container=$(buildah from --pull-never --signature-policy /b/etc/policy.json "$1")
trap 'buildah rm "$container" >/dev/null' EXIT
root=$(buildah mount "$container")
mkfs.erofs --quiet --preserve-mtime -U 00000000-0000-0000-0000-000000000000 \
    "$2/rootfs.erofs" "$root" >&2
buildah inspect --type image "$1" >"$2/image.json"
buildah umount "$container" >/dev/null
