#!/bin/sh
# Finishes the root file system $1 of cakework/python; wheels are in the folder $2, and what the
# image's environment gets besides is added to the file $3.
set -eu
root=$1
# The whole system is the project's own here: pip may install into it.
rm -f "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
read -r version short <<END
$(chroot "$root" python3 -c 'import sys; print("%d.%d.%d" % sys.version_info[:3], "%d.%d" % sys.version_info[:2])')
END
# Packages are where those who copy them from one stage to another look for them.
packages=$root/usr/local/lib/python$short
mkdir -p "$packages/site-packages"
if [ -d "$packages/dist-packages" ]; then rmdir "$packages/dist-packages"; fi
ln -s site-packages "$packages/dist-packages"
mkdir "$root/tmp/wheels"
cp "$2"/* "$root/tmp/wheels/"
chroot "$root" sh -c 'PYTHONPATH=$(echo /usr/share/python-wheels/pip-*.whl) exec python3 -m pip \
    --quiet --no-cache-dir install --no-index --no-deps --root-user-action=ignore /tmp/wheels/*.whl'
echo "PYTHON_VERSION=$version" >>"$3"
sh "${0%/*}/clean.sh" "$root"
