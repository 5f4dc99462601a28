#!/bin/sh
# Removes from the root file system $1 what no program needs, and what is of this host.
set -eu
cd "$1"
rm -rf var/lib/apt/lists/* var/cache/* var/log/* tmp/* run/*
rm -f etc/apt/apt.conf.d/99mmdebstrap etc/dpkg/dpkg.cfg.d/99mmdebstrap etc/resolv.conf etc/hostname
mkdir -p var/cache/apt/archives/partial var/lib/apt/lists/partial
