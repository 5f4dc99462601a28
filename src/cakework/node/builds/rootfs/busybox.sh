#!/bin/sh
# Fills $1 with busybox and what any program expects of a root file system.
set -eu
cd "$1"
mkdir -p bin sbin etc home root tmp usr var
ln -s ../bin usr/bin
ln -s ../sbin usr/sbin
cp /usr/bin/busybox bin/busybox
for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "bin/$applet"
done
chmod 1777 tmp
chmod 700 root
cat >etc/passwd <<END
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
END
cat >etc/group <<END
root:x:0:
nogroup:x:65534:
END
