# Runs a machine until standard input ends, which it does however whoever has started this ends.
#   guard.sh BOOT GROUP ROOT PROGRAMS UNIT
# The first line of the input is the machine's process 1, once that is known. At the end the guard removes the
# machine: processes and mounts go with their namespaces, control groups by hand.
boot=$1 group=$2
shift
trap '' INT TERM HUP
# What unshare itself says is left out: it complains of a process 1 that was killed, as this one will be.
setpriv --pdeathsig KILL unshare --fork --kill-child --pid --mount --uts --ipc --net \
    sh -e "$boot" "$@" 3>&2 2> /dev/null &
# So that the output ends with the machine.
exec >&-
read -r init
read -r end
# unshare then waits for the last process of the machine. Without a number, it takes process 1 with it.
kill -KILL ${init:-$!} 2> /dev/null
wait $! 2> /dev/null

# Whoever was killed is in its group until the kernel has cleaned up, of which it tells nobody.
tries=250
while find /sys/fs/cgroup -depth -type d \( -path "*/$group" -o -path "*/$group/*" \) -exec rmdir {} + 2> /dev/null
    [ -n "$(find /sys/fs/cgroup -type d -name "$group")" ]; do
    tries=$((tries - 1))
    if [ $tries = 0 ]; then
        echo "control groups $group are left behind below /sys/fs/cgroup: rmdir them" >&2
        exit 1
    fi
    sleep 0.02
done
