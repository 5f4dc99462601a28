#!/bin/sh
# The program of a builder machine, as root of it: takes a build in, carries it out, hands its
# image over. What is said on the connection: exchange.py.
#
#   builder.sh <port>
#       listens for the node's one connection; standard output and error are the build's log
#   builder.sh serve
#       the connection is standard input and output; the log is descriptors 3 and 2
#   builder.sh build <build id> <largest file, bytes> <most that may be written, KiB>
#       in the user namespace of builds, and in process and mount namespaces that end with it
set -eu
umask 022
script=$0
answer=5

# The input, a piece after another.
receive() {
    while read -r size && [ "$size" -gt 0 ]; do head -c "$size"; done
}

# <word> <status> <file>: one record for the node.
tell() {
    printf '%s %s %s\n' "$1" "$2" "$(stat -c %s "$3")" >&"$answer"
    cat "$3" >&"$answer"
}

# <word> <status> <file>: one record for the node, of the end of a file.
tell_end() {
    tail -c 16384 "$3" >"$3.end"
    tell "$1" "$2" "$3.end"
}

prepare_machine() {
    mkdir -p /b
    mount --bind /data /b
    # Else a mount that runc makes of it may not have other flags than it has.
    mount -o remount,bind,rw,dev,relatime /b
    mount -t cgroup2 none /sys/fs/cgroup
    mkdir -p /b/storage /b/run
    # A program that wants more than there is gets it, and is killed when it uses it: as in a
    # control group.
    echo 1 >/proc/sys/vm/overcommit_memory
}

# When the node is gone, so is the machine.
end_with_connection() {
    cat <&4 >/dev/null
    exec busybox poweroff -f
}

# Leaves the process that holds the user namespace in $holder.
make_user_namespace() {
    mkfifo /b/ready /b/go
    unshare --user -- sh -c 'echo >/b/ready; read -r _ </b/go' &
    holder=$!
    read -r _ </b/ready
    echo '0 0 65536' >"/proc/$holder/uid_map"
    echo '0 0 65536' >"/proc/$holder/gid_map"
    # None within it: as where builds run in containers (identities.py).
    nsenter --user="/proc/$holder/ns/user" --setuid 0 --setgid 0 -- \
        sh -c 'echo 0 >/proc/sys/user/max_user_namespaces'
}

configure() {
    # Nothing is fetched from here: short names are only looked up in the storage.
    printf 'unqualified-search-registries = ["docker.io"]\nshort-name-mode = "permissive"\n' \
        >/b/etc/registries.conf
    bases=
    if [ -d /bases/overlay ]; then bases='"/bases"'; fi
    cat >/b/storage.conf <<END
[storage]
driver = "overlay"
graphroot = "/b/storage"
runroot = "/b/run"
[storage.options]
additionalimagestores = [$bases]
END
    export CONTAINERS_STORAGE_CONF=/b/storage.conf CONTAINERS_CONF=/b/etc/containers.conf
    export CONTAINERS_REGISTRIES_CONF=/b/etc/registries.conf REGISTRY_AUTH_FILE=/b/etc/auth.json
    export HOME="$work/tmp" TMPDIR="$work/tmp" LANG=C.UTF-8
    if [ -e /b/etc/ca.pem ]; then export SSL_CERT_FILE=/b/etc/ca.pem; fi
}

# The images from registries, each in a folder with its name in the file beside it.
load_images() {
    for folder in "$work"/bases/*/; do
        if [ ! -d "$folder" ]; then continue; fi
        skopeo --policy /b/etc/policy.json --tmpdir "$work/tmp" copy --quiet "dir:$folder" \
            "containers-storage:$(cat "${folder%/}.name")" || return
    done
}

# <process> <most, KiB>: ends it when the layers that it has mounted hold more.
watch_disk() {
    while sleep 1; do
        sed -n 's:.*,upperdir=\(/b/storage/[^,]*\),.*:\1:p' /proc/self/mounts >>"$work/layers"
        sort -u -o "$work/layers" "$work/layers"
        held=$(xargs -r du -skc <"$work/layers" 2>"$work/du" | tail -n 1 | cut -f 1)
        if [ "${held:-0}" -gt "$2" ]; then
            echo over >"$work/over"
            kill -KILL "$1"
        fi
    done
}

buildah_build() {
    set -- "$work/context"
    if [ -e "$work/dockerignore" ]; then set -- --ignorefile "$work/dockerignore" "$@"; fi
    if [ -e "$work/pinned" ]; then
        while read -r image; do set -- "--build-context=$image" "$@"; done <"$work/pinned"
    fi
    exec buildah build --layers=false --pull=never --isolation=rootless \
        --runtime=/usr/sbin/runc --network=host "--volume=$work/sys:/sys:ro" \
        "--iidfile=$work/out/iid" --signature-policy /b/etc/policy.json \
        "--file=$work/Dockerfile" "$@"
}

case $1 in
serve)
    exec 4<&0 5>&1 1>&3 3>&-
    prepare_machine
    read -r id bytes most
    receive | tar -x -C /b --numeric-owner
    end_with_connection &
    lifeline=$!
    make_user_namespace
    status=0
    nsenter --user="/proc/$holder/ns/user" --setuid 0 --setgid 0 -- \
        unshare --mount --pid --ipc --uts --fork --kill-child=KILL --mount-proc -- \
        prlimit --fsize="$bytes" --core=0 -- \
        "$script" build "$id" "$bytes" "$most" </dev/null 4<&- || status=$?
    kill -KILL "$lifeline"
    exit "$status"
    ;;

build)
    work=/b/$2
    mkdir -p "$work/tmp" "$work/out" "$work/sys/fs/cgroup"
    : >"$work/over"
    configure
    status=0
    load_images 2>"$work/fault" || status=$?
    tell_end loaded "$status" "$work/fault"
    [ "$status" = 0 ] || exit "$status"

    buildah_build 5>&- </dev/null &
    building=$!
    watch_disk "$building" "$4" 5>&- &
    watching=$!
    # The shell says on its standard error when it was killed.
    { wait "$building" || status=$?; } 2>"$work/fault"
    kill "$watching"
    tell built "$status" "$work/over"
    [ "$status" = 0 ] || exit "$status"

    image=$(cat "$work/out/iid")
    sh "$work/export.sh" "$image" "$work/out" 2>"$work/fault" 5>&- || status=$?
    tell_end exported "$status" "$work/fault"
    [ "$status" = 0 ] || exit "$status"
    tell id 0 "$work/out/iid"
    tell config 0 "$work/out/image.json"
    tell image 0 "$work/out/rootfs.erofs"
    ;;

*)
    exec busybox nc -l -p "$1" -e "$script" serve 3>&1
    ;;
esac
