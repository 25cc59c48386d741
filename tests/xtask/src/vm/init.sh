#!/bin/busybox sh
# The first process of a guest: it runs the lines it reads on the second serial port, one after
# another, and answers each with what it printed and how it ended (the format is in report.rs).

/bin/busybox mkdir -p /bin /sbin /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
export PATH=/bin

stty -F /dev/ttyS1 raw -echo
exec 3<>/dev/ttyS1
echo "#ready" >&3
while IFS= read -r line <&3; do
    sh -c "$line" >/tmp/stdout 2>/tmp/stderr </dev/null 3>&-
    status=$?
    # awk also ends a last line that has no end.
    {
        awk '{ print "1" $0 }' /tmp/stdout
        awk '{ print "2" $0 }' /tmp/stderr
        echo "=$status"
    } >&3
done
poweroff -f
