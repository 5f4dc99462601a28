#!/bin/sh
# Finishes the root file system $1 of cakework/node:18: adds npm.
# What the image's environment gets besides is added to the file $3.
#
# Debian's npm depends on some 350 packages, most of which it never loads. They are downloaded
# but not installed: npm and the modules that it needs are taken out of them.
set -eu
root=$1
apt-get --quiet --yes --download-only install npm
for package in "$root"/var/cache/apt/archives/*.deb; do
    case ${package##*/} in
    npm_* | node-*)
        dpkg-deb --fsys-tarfile "$package" |
            tar -x -C "$root" --keep-directory-symlink \
                --exclude './usr/share/doc*' --exclude './usr/share/man*'
        ;;
    esac
done
python3 "${0%/*}/keep_modules.py" "$root" npm acorn acorn-walk cjs-module-lexer undici
chroot "$root" npm --version
sh "${0%/*}/node_user.sh" "$root" "$3"
sh "${0%/*}/clean.sh" "$root"
