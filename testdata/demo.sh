#!/bin/sh
# The main job on a small real root file system, each command shown with what it says: demo.sh DIR
set -eu
here=$(cd "$(dirname "$0")" && pwd)
umask 022
rm -rf "$1"
mkdir "$1"
cd "$1"

say() { printf '\n# %s\n' "$1"; }
run() {
    printf '$ %s\n' "$1"
    eval "$1"
}

say "A root file system that must not change (busybox; in real life: a directory on CVMFS)"
python3 "$here/make_rootfs.py" rootfs
cp -a rootfs pristine
run 'sifkit exec rootfs cat /usr/share/demo/greeting'

say "Write into it as if it were writable: the changes go to the directory 'changes'"
run 'sifkit overlay create changes/'
run 'sifkit exec --overlay changes rootfs sh -c "echo and a line of mine >> /usr/share/demo/greeting"'
run 'sifkit exec --overlay changes rootfs sh -c "mkdir /opt; echo kept > /opt/note; rm /usr/share/demo/untouched"'

say "A second run finds them again"
run 'sifkit exec --overlay changes rootfs cat /usr/share/demo/greeting /opt/note'
run 'sifkit exec --overlay changes rootfs ls /usr/share/demo'

say "The base is as it was"
run 'cat rootfs/usr/share/demo/greeting'
run 'diff -r --no-dereference pristine rootfs && echo no difference'

say "See what you changed, without a container: added, changed, deleted"
run 'sifkit overlay diff --base rootfs changes'

say "All changes in one file, for file systems that hate many small ones; 2000 files written into it"
run 'sifkit overlay create changes.img'
run 'sifkit exec --overlay changes.img rootfs sh -c "mkdir /data; i=0; while [ \$i -lt 2000 ]; do i=\$((i + 1)); echo \$i > /data/\$i; done"'
run 'sifkit overlay diff --stat changes.img | head -4'
run 'sifkit overlay cat changes.img data/1234'

say "Give it away: the changes as one read-only layer, or with the base as one SIF image"
run 'sifkit overlay freeze --base rootfs changes -o tools.sqfs'
run 'sifkit exec --overlay tools.sqfs rootfs cat /opt/note'
run 'sifkit overlay commit changes --base rootfs -o mine.sif'
run 'sifkit exec mine.sif cat /opt/note'

say "A throwaway run: writes work, and nothing of them survives"
run 'sifkit exec --writable-tmpfs rootfs sh -c "echo gone soon > /opt-note; cat /opt-note"'
run 'sifkit exec rootfs ls /opt-note || echo "not there: status $?"'
run 'diff -r --no-dereference pristine rootfs && echo no difference'
