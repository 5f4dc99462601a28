#!/bin/sh
# Finishes the root file system $1 of the machines in which images are built.
set -eu
mkdir -p "$1/b" "$1/data" "$1/bases"
sh "${0%/*}/clean.sh" "$1"
