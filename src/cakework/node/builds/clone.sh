#!/bin/sh
# Fetches the newest commit of a branch into the folder "context" beside this script:
#   clone.sh <address> <repository> <branch> <time of files, in unix seconds>
# What is to be said of it goes to stdout, one word and its value a line; see clone.py.
#
# Credentials come on stdin, as git-credential(1) writes them. They stay in the memory of this
# shell, which hands them to git through a pipe: no argument, variable of the environment or file
# has them.
set -eu
address=$1 repository=$2 branch=$3 time=$4
work=$(dirname "$0")
credentials=$(cat)
export GIT_DIR="$work/tmp/git" GIT_WORK_TREE="$work/context"
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null GIT_ATTR_NOSYSTEM=1
export GIT_TERMINAL_PROMPT=0 GIT_ALLOW_PROTOCOL=https GIT_LFS_SKIP_SMUDGE=1
export LC_ALL=C.UTF-8
helper='!f() { if [ "$1" = get ]; then cat <&3; fi; }; f'

plain() {
    git -c core.hooksPath=/dev/null -c core.fsync=none -c core.symlinks=true "$@"
}

remote() {
    printf '%s\n' "$credentials" |
        plain -c "credential.$address.helper=$helper" \
            -c http.lowSpeedLimit=1 -c http.lowSpeedTime=60 "$@" 3<&0 </dev/null
}

say_some() { # <word for how many> <word for each>, of names on stdin, one a line
    awk -v all="$1" -v each="$2" '
        NR <= 5 { print each, $0 }
        END { if (NR) print all, NR }'
}

mkdir "$GIT_WORK_TREE"
plain init --quiet --template=
if ! remote fetch --quiet --depth=1 --no-tags --no-recurse-submodules --no-auto-maintenance \
    -- "$address/$repository.git" "+refs/heads/$branch:refs/heads/fetched" 2>"$work/tmp/fault"; then
    cat "$work/tmp/fault" >&2
    if grep -q "couldn't find remote ref" "$work/tmp/fault"; then
        remote ls-remote --quiet --heads -- "$address/$repository.git" | awk 'END { print "branches", NR }'
    fi
    exit 1
fi
plain checkout --quiet --force --detach fetched

cd "$GIT_WORK_TREE"
plain ls-files --stage | sed -n 's/^160000 [0-9a-f]* 0\t//p' | say_some submodules submodule
plain ls-files -z ':(attr:filter=lfs)' |
    xargs -0 -r grep -lZ -s -m 1 -D skip -e '^version https://git-lfs.github.com/spec/v1' -- |
    tr '\n\0' ' \n' | say_some lfs-files lfs-file
for name in .containerignore .dockerignore; do
    # It would be followed, to wherever in this sandbox it leads.
    if [ -L "$name" ] && [ ! -e "$work/dockerignore" ]; then
        : >"$work/dockerignore"
        echo "ignored-link $name"
    fi
done
plain ls-files --stage | awk '!/^160000 / { n++ } END { print "files", n + 0 }'
echo "commit $(plain rev-parse fetched)"
rm -rf "$GIT_DIR"
find . -exec touch --no-dereference --date="@$time" {} +
