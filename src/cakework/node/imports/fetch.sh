#!/bin/sh
# Asks a registry about the image $2, or fetches it; its credentials come on stdin, and are kept
# where only this sandbox sees them, in memory.
#   fetch.sh check <image>         writes its configuration to stdout
#   fetch.sh pull <image> <out>    writes <out>/rootfs.erofs and <out>/image.json
set -eu
work=$(dirname "$0")
auth=/tmp/auth.json
(umask 077 && cat >"$auth")
cp /b/etc/registries.conf /b/etc/policy.json /etc/containers/

case $1 in
check)
    exec skopeo --tmpdir "$work/tmp" --override-os linux --override-arch amd64 \
        inspect --config --no-tags --authfile "$auth" "docker://$2"
    ;;
pull)
    # Layers of its own: what came with one account's password is no other account's.
    printf '[storage]\ndriver = "overlay"\ngraphroot = "%s/storage"\nrunroot = "%s/run"\n' \
        "$work" "$work" >"$work/storage.conf"
    export CONTAINERS_STORAGE_CONF="$work/storage.conf"
    # Unpacking goes on where there is no /proc to see that this is a user namespace, in which
    # overlays keep their marks in other attributes.
    export _CONTAINERS_USERNS_CONFIGURED=done
    # Without a name for it, layers on their way are kept in memory, where there is not much room.
    skopeo --tmpdir "$work/tmp" --override-os linux --override-arch amd64 \
        copy --quiet --retry-times 2 --authfile "$auth" "docker://$2" containers-storage:localhost/import:latest
    rm "$auth"
    : >"$work/arrived"
    exec sh "$work/export.sh" localhost/import "$3"
    ;;
esac
