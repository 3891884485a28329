#!/bin/sh
# First process of the guest: mounts, drivers, then the command channel for ever.
export PATH=/usr/bin HOME=/root LC_ALL=C
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
hostname guest
ip link set lo up

read -r cmdline </proc/cmdline
case " $cmdline " in
*" lab.autoload=0 "*) ;;
*)
    # The virtio devices are there only after the PCI drivers.
    for bus in pci virtio; do
        cat /sys/bus/$bus/devices/*/modalias >/run/modaliases 2>/dev/null
        [ -s /run/modaliases ] && modprobe -qab $(cat /run/modaliases)
    done
    uevent /usr/lib/lab/hotplug &
    ;;
esac

while :; do
    /usr/lib/lab/agent
    echo "lab: the agent ended with $?"
    sleep 1
done
