#!/bin/sh
# Runs a command where a build may do as it likes. Called by sandbox.py, as root:
#   sandbox.sh enter <path of a network namespace, or ""> <command> …
#
# From outside to inside: the build's cgroup, its network namespace, a mount namespace with a
# root made of nothing but what follows, the user namespace of all builds, and last a process
# namespace, whose end is the end of everything in it.
#
# CW_CGROUPS  cgroup.procs files to join      CW_PARENT  process id of the node
# CW_IDS_FD   descriptor of the user namespace   CW_ROOT_ID  host's id of root inside
# CW_HOME     folder with etc and root        CW_WORK    the build's own folder
# CW_STORE    folder with storage and run to use, or ""
# CW_BASES    a storage to read besides, or ""
# CW_RESOLV   resolv.conf to show             CW_APT     1: show the host's apt configuration
# CW_FILE_BYTES  largest file
set -eu
umask 022
step=$1
shift

case $step in
enter)
    for file in $CW_CGROUPS; do echo $$ >"$file"; done
    netns=$1
    shift
    if [ -n "$netns" ]; then
        exec nsenter --net="$netns" -- unshare --mount --propagation private -- \
            /bin/sh "$0" mounts "$@"
    fi
    exec unshare --mount --propagation private -- /bin/sh "$0" mounts "$@"
    ;;

mounts)
    root=$CW_HOME/root
    mount -t tmpfs -o mode=755,size=64m,nosuid,nodev sandbox "$root"
    cp -p "$0" "$root/sandbox.sh"
    cd "$root"
    mkdir -p usr dev/pts dev/shm proc sys/fs/cgroup tmp root run b old \
        etc/ssl etc/alternatives etc/containers etc/cni \
        var/tmp var/cache var/lib/containers var/lib/dpkg var/lib/apt/lists
    for name in bin sbin lib lib64; do
        if [ -e "/$name" ]; then ln -s "usr/$name" "$name"; fi
    done
    mount --bind /usr usr
    mount -o remount,bind,ro,nosuid,nodev usr
    for name in ssl alternatives ca-certificates; do
        if [ -d "/etc/$name" ]; then
            mkdir -p "etc/$name"
            mount --bind "/etc/$name" "etc/$name"
            mount -o remount,bind,ro,nosuid,nodev "etc/$name"
        fi
    done
    for name in passwd group ld.so.cache nsswitch.conf; do
        if [ -e "/etc/$name" ]; then cp "/etc/$name" etc/; fi
    done
    cp "$CW_RESOLV" etc/resolv.conf
    printf '127.0.0.1 localhost\n::1 localhost\n' >etc/hosts
    echo build >etc/hostname
    for name in null zero full random urandom tty; do
        : >"dev/$name"
        mount --bind "/dev/$name" "dev/$name"
    done
    ln -s /proc/self/fd dev/fd
    if [ "${CW_APT:-}" = 1 ]; then
        for name in apt dpkg; do
            mkdir "etc/$name"
            mount --bind "/etc/$name" "etc/$name"
            mount -o remount,bind,ro,nosuid,nodev "etc/$name"
        done
        cp /etc/hosts etc/hosts
    fi
    if [ -n "$CW_STORE" ]; then
        for name in storage run; do
            mkdir "b/$name"
            mount --bind "$CW_STORE/$name" "b/$name"
        done
    fi
    if [ -n "$CW_BASES" ]; then
        mkdir b/bases
        mount --bind "$CW_BASES" b/bases
        mount -o remount,bind,ro,nosuid,nodev b/bases
    fi
    mkdir b/etc
    mount --bind "$CW_HOME/etc" b/etc
    mount -o remount,bind,ro,nosuid,nodev b/etc
    work=b/${CW_WORK##*/}
    mkdir "$work"
    mount --bind "$CW_WORK" "$work"
    mount --rbind /proc proc
    mount --rbind /sys/fs/cgroup sys/fs/cgroup
    chown -R "$CW_ROOT_ID:$CW_ROOT_ID" tmp var run root etc/containers etc/cni
    chmod 1777 tmp var/tmp
    pivot_root . old
    umount -l old
    rmdir old
    cd /
    exec nsenter --user="/proc/self/fd/$CW_IDS_FD" --setuid 0 --setgid 0 -- \
        setpriv --pdeathsig KILL -- /bin/sh /sandbox.sh inside "$@"
    ;;

inside)
    # The node may have ended before its end was bound to ours.
    if [ "$PPID" != "$CW_PARENT" ]; then exit 125; fi
    unset CW_CGROUPS CW_PARENT CW_IDS_FD CW_ROOT_ID CW_HOME CW_WORK CW_RESOLV CW_APT \
        CW_STORE CW_BASES
    exec unshare --mount --pid --ipc --uts --fork --kill-child=KILL --mount-proc -- \
        prlimit --fsize="$CW_FILE_BYTES" --core=0 --nofile=1024: -- "$@"
    ;;
esac
