#!/bin/sh
# Finishes the root file system $1 of a Debian release, which other base images lie on.
set -eu
# A mirror's password stays here.
sed -i 's|://[^/@ ]*@|://|' "$1"/etc/apt/sources.list.d/*
sh "${0%/*}/clean.sh" "$1"
