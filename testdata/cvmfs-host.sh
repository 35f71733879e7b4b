#!/bin/sh
# A host with a repository mounted at /cvmfs: cvmfs-host.sh IMAGE MOUNTPOINT OWNER COMMAND [ARG...]
# Serves the squashfs file IMAGE at MOUNTPOINT (below /cvmfs) through squashfuse, every file owned by uid OWNER, in a
# mount namespace of its own, and runs COMMAND there as the ordinary user AS_UID:AS_GID (default: the caller).
# Root uses its own rights. An ordinary user becomes root over subordinate ids, so that the server and COMMAND are
# different users, as on a real host; needs /etc/subuid and uidmap.
set -eu
: "${AS_UID:=$(id -u)}" "${AS_GID:=$(id -g)}"
export AS_UID AS_GID

if [ "${1:-}" != --inside ]; then
    if [ "$(id -u)" -eq 0 ]; then
        exec unshare --mount --propagation private sh "$0" --inside "$@"
    fi
    exec unshare --map-user="$AS_UID" --map-group="$AS_GID" --map-auto --setuid 0 --setgid 0 --mount \
        sh "$0" --inside "$@"
fi
image=$2 mountpoint=$3 owner=$4
shift 4

# /cvmfs cannot be made in the real root, so everything else is bound into a new one.
new=/mnt
workdir=$(pwd)
mount -t tmpfs -o mode=755 newroot $new
for entry in /*; do
    if [ -L "$entry" ]; then
        cp -P "$entry" "$new$entry"
    elif [ "$entry" = $new ] || [ "$entry" = /cvmfs ]; then
        mkdir "$new$entry"
    elif [ -d "$entry" ]; then
        mkdir "$new$entry"
        mount --rbind "$entry" "$new$entry"
    fi
done
mkdir -p "$new$mountpoint"
cd $new
pivot_root . .
umount -l .
cd "$workdir"

setpriv --pdeathsig TERM squashfuse -f -o "allow_other,nosuid,nodev,uid=$owner,gid=$owner" "$image" "$mountpoint" &
server=$!
until mountpoint -q "$mountpoint"; do
    kill -0 $server 2>/dev/null || { echo "cvmfs-host: squashfuse did not start" >&2; exit 99; }
    sleep 0.01
done
status=0
if [ "$AS_UID" -eq 0 ]; then
    "$@" || status=$?
else
    setpriv --reuid="$AS_UID" --regid="$AS_GID" --clear-groups --inh-caps=-all --pdeathsig KILL -- "$@" || status=$?
fi
kill $server
wait $server || :
exit $status
