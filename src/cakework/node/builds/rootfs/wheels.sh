#!/bin/sh
# Downloads the wheels that the lock $1 names into the folder $2. Standard input is shell: it sets
# how the host reaches its index. pip is the one that Debian's Python makes environments with.
set -eu
eval "$(cat)"
for wheel in /usr/share/python-wheels/pip-*.whl; do
    if [ ! -e "$wheel" ]; then
        echo "E: the Debian package python3-venv is missing on this host" >&2
        exit 1
    fi
    export PYTHONPATH="$wheel"
done
PIP_CONFIG_FILE=/dev/null exec /usr/bin/python3 -m pip download --quiet --no-input \
    --disable-pip-version-check --no-cache-dir --no-deps --only-binary :all: --require-hashes \
    --requirement "$1" --dest "$2"
