#!/bin/sh
# Gives the root file system $1, which has Node, the user that all images of Node have, and the file
# $2 the version.
set -eu
chroot "$1" groupadd --gid 1000 node
chroot "$1" useradd --uid 1000 --gid node --shell /bin/bash --create-home node
chroot "$1" node -p '`NODE_VERSION=${process.versions.node}`' >>"$2"
