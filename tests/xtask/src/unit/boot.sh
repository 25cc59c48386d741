# Runs as process 1 of new namespaces, makes a machine there, and becomes its systemd.
#   boot.sh GROUP ROOT PROGRAMS UNIT
# Its file system is in memory, but for /usr, which is the host's and read-only. Its units are those named
# below and no others: what systemd would want besides is none of a machine without disks. Printed is
# which process of the host it is. Errors go to descriptor 3.
exec 2>&3 3>&-
group=$1 root=$2 programs=$3 unit=$4
lib=/usr/lib/systemd
[ -x $lib/systemd ] || lib=/lib/systemd
read -r init rest < /proc/self/stat

# Without a control group of its own in each hierarchy, systemd would take the host's. It need not be in all: that
# of CPU sets takes nobody before it is given some.
hierarchies=/sys/fs/cgroup/*
[ ! -e /sys/fs/cgroup/cgroup.procs ] || hierarchies=/sys/fs/cgroup
for at in $hierarchies; do
    [ -e "$at/cgroup.procs" ] || continue
    mkdir -p "$at/$group"
    echo 0 2> /dev/null > "$at/$group/cgroup.procs" || [ "${at##*/}" = cpuset ]
done

mount --make-rprivate /
mount -t tmpfs -o mode=755 machine "$root"
cd "$root"
mkdir -p usr etc/systemd/system proc sys dev run root home opt tmp backup host var/lib var/log var/tmp
ln -s /run var/run
mount --bind /usr usr
for name in bin sbin lib lib32 lib64 libx32; do
    if [ -L /$name ]; then
        cp -P /$name $name
    elif [ -d /$name ]; then
        mkdir $name
        mount --bind /$name $name
        mount -o remount,bind,ro $name
    fi
done
mount -t tmpfs -o mode=755 programs usr/local
mkdir usr/local/bin
mount --bind "$programs" usr/local/bin
mount -o remount,bind,ro usr/local/bin
mount -o remount,bind,ro usr

# What is written below /proc/sys would be the host's as well.
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
if [ -e /sys/fs/cgroup/cgroup.procs ]; then
    mount --bind /sys/fs/cgroup sys/fs/cgroup
else
    # In a directory of its own, which systemd makes read-only: it would be the host's, too.
    mount -t tmpfs -o mode=755 cgroup sys/fs/cgroup
    for at in /sys/fs/cgroup/*; do
        if [ -L "$at" ]; then
            cp -P "$at" sys/fs/cgroup
        elif [ -e "$at/cgroup.procs" ]; then
            mkdir "sys/fs/cgroup/${at##*/}"
            mount --bind "$at" "sys/fs/cgroup/${at##*/}"
        fi
    done
    mount -o remount,bind,ro sys/fs/cgroup
fi
mount -t tmpfs -o mode=755 run run

# What looks like a disk is among them, to be kept from whoever may see none; no driver has that number.
mount -t tmpfs -o mode=755 dev dev
while read -r name type major minor; do
    mknod -m 666 dev/$name $type $major $minor
done << END
null c 1 3
zero c 1 5
full c 1 7
random c 1 8
urandom c 1 9
tty c 5 0
sda b 240 0
END
mkdir dev/shm dev/pts dev/mqueue
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx

printf '%s\n' root:x:0:0::/root:/bin/sh card:x:4241:4241::/: hardserver:x:4242:4242::/: > etc/passwd
printf '%s\n' root:x:0: card:x:4241: hardserver:x:4242: > etc/group
tr -d - < /proc/sys/kernel/random/uuid > etc/machine-id
cp "$unit" etc/systemd/system
cd etc/systemd/system
for name in sysinit.target basic.target multi-user.target shutdown.target \
    systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket; do
    ln -s $lib/system/$name .
done
mkdir sysinit.target.wants multi-user.target.wants
ln -s ../systemd-journald.service sysinit.target.wants
ln -s ../cardmon.service multi-user.target.wants
cd "$root"

echo "$init"
pivot_root . host
umount -l /host
exec env -i container=unit PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    SYSTEMD_UNIT_PATH=/etc/systemd/system SYSTEMD_GENERATOR_PATH=/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/none \
    $lib/systemd --system --unit=multi-user.target --log-target=journal
