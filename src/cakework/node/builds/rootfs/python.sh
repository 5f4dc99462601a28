#!/bin/sh
# Finishes the root file system $1 of cakework/python.
set -eu
# The whole system is the project's own here: pip may install into it.
rm -f "$1"/usr/lib/python3*/EXTERNALLY-MANAGED
sh "${0%/*}/clean.sh" "$1"
