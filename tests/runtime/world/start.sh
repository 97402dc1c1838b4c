#!/usr/bin/env bash
# Starts a world: cgroup, mount, network and pid namespaces in which a test's containerd, containers
# and compose live. Says "ready" and then lives until its standard input is closed; with it ends every
# process of the world, whatever has become of the test.
#
#   start.sh NAME    NAME is the cgroup, in every hierarchy, that holds the world's cgroups
set -euo pipefail

# To be read as a text: a process substitution may still be a child of what this shell becomes.
cgroup_mounts() { awk '$3 == "cgroup" || $3 == "cgroup2" { print $2, $3, $4 }' /proc/self/mounts; }

enable_controllers() {
    local controller
    for controller in $(cat "$1/cgroup.controllers"); do
        # A controller that this kernel gives to no group is no use to containers either.
        echo "+$controller" >"$1/cgroup.subtree_control" 2>/dev/null || continue
    done
}

case ${STAGE:-cgroup} in
cgroup)
    # crun takes no machine on which cgroup v2 has a controller beside those of v1.
    if [[ -e /sys/fs/cgroup/memory && $(cat /sys/fs/cgroup/unified/cgroup.controllers 2>&1) == hugetlb ]]; then
        mkdir -p /sys/fs/cgroup/hugetlb
        mount -t cgroup -o hugetlb cgroup /sys/fs/cgroup/hugetlb || mountpoint -q /sys/fs/cgroup/hugetlb
    fi
    # The group that a process is in when it makes a cgroup namespace is the root of that namespace.
    while read -r mountpoint kind _; do
        group=$mountpoint/$1
        mkdir "$group"
        if [[ -e $group/cpuset.cpus && $kind == cgroup ]]; then
            cat "$mountpoint/cpuset.cpus" >"$group/cpuset.cpus"
            cat "$mountpoint/cpuset.mems" >"$group/cpuset.mems"
            echo 1 >"$group/cgroup.clone_children"
        fi
        mkdir "$group/init"
        echo $$ >"$group/cgroup.procs"
    done <<<"$(cgroup_mounts)"
    STAGE=namespaces exec unshare --cgroup bash "$0" "$1"
    ;;

namespaces)
    # A group of cgroup v2 that has processes cannot give controllers to its children.
    while read -r mountpoint kind _; do
        echo $$ >"$mountpoint/$1/init/cgroup.procs"
        if [[ $kind == cgroup2 ]]; then
            enable_controllers "$mountpoint"
            enable_controllers "$mountpoint/$1"
        fi
    done <<<"$(cgroup_mounts)"
    STAGE=world exec unshare --mount --propagation private --net --pid --fork --kill-child \
        --mount-proc bash "$0" "$1"
    ;;

world)
    # What is mounted below /sys shows the cgroups and interfaces of the host: mount it anew.
    mapfile -t mounts <<<"$(cgroup_mounts)"
    umount --recursive --lazy /sys
    mount -t sysfs sysfs /sys
    for mount in "${mounts[@]}"; do
        read -r mountpoint kind options <<<"$mount"
        if [[ $mountpoint == /sys/fs/cgroup/* ]]; then
            mountpoint -q /sys/fs/cgroup || mount -t tmpfs tmpfs /sys/fs/cgroup
        fi
        mkdir -p "$mountpoint"
        if [[ $kind == cgroup2 ]]; then
            mount -t cgroup2 cgroup2 "$mountpoint"
        else
            controllers=$(tr , '\n' <<<"$options" |
                grep -vxE 'rw|ro|relatime|nosuid|nodev|noexec|xattr|clone_children|release_agent=.*' |
                paste -sd,)
            [[ $controllers != name=* ]] || controllers=none,$controllers
            mount -t cgroup -o "$controllers" cgroup "$mountpoint"
        fi
    done

    # Programs keep things here whatever they are told: shim sockets, CNI results, lock files.
    resolver=$(readlink -f /etc/resolv.conf)
    mkdir -p /etc/cni
    for folder in /run /var/lib /etc/cni; do
        mount -t tmpfs -o mode=755 tmpfs "$folder"
    done
    echo "nameserver 192.0.2.1" >/run/resolv.conf
    [[ $resolver != /run/* ]] || install -D /dev/null "$resolver"
    mount --bind /run/resolv.conf "$resolver"

    # A way out, as a machine's network has one. Nobody answers there.
    ip link set lo up
    ip link add uplink type bridge
    ip address add 192.0.2.2/24 dev uplink
    ip link set uplink up
    ip route add default via 192.0.2.1

    echo ready
    # This shell reaps what the world leaves behind. The other end of the input is the test.
    read -r _ || exit 0
    ;;
esac
