#!/bin/sh
# The first process of the guest.  Makes the file systems, the NFS server's storage and the nodes' namespaces; then an
# agent takes over in each of them, this process among them.  What fails here stands on the console.
# The kernel hands over: RIG_WORK, RIG_KERNEL, RIG_PYTHON, RIG_NODES (names, with commas), PYTHONPYCACHEPREFIX.
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run LANG=C.UTF-8
cd "$(dirname "$0")/../../.."

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for directory in /dev/shm /run /mnt /var/lib/nfs; do mount -t tmpfs tmpfs $directory; done
for directory in "$RIG_WORK" "$PYTHONPYCACHEPREFIX"; do
    # The old system call: for the new one hostfs wants its option with a name, for the old one without.
    LIBMOUNT_FORCE_MOUNT2=always mount -t hostfs -o "$directory" hostfs "$directory"
done
mkdir /run/lock /run/rpcbind /run/sendsigs.omit.d
mkdir /var/lib/nfs/sm /var/lib/nfs/sm.bak /var/lib/nfs/nfsdcld /var/lib/nfs/v4recovery
touch /var/lib/nfs/etab /var/lib/nfs/rmtab /var/lib/nfs/state

modprobe -d "$RIG_KERNEL" -a fuse veth sch_netem nfs nfsv3 nfsv4 nfsd
mount -t nfsd nfsd /proc/fs/nfsd
for directory in /run /var/lib/nfs; do # the server's memory of its clients, nfsdcld, looks in one of them
    mkdir $directory/rpc_pipefs
    mount -t rpc_pipefs rpc_pipefs $directory/rpc_pipefs
done
hostname srv
ip link set lo up
ip addr add 10.77.0.1/32 dev lo # the NFS server
ip addr add 10.77.0.2/32 dev lo # the origin

mkdir /mnt/large /mnt/small
mount /dev/ubda /mnt/large
mount /dev/ubdb /mnt/small

agent() { # NAME CONSOLE
    exec "$RIG_PYTHON" -m tests.rig.nfs.agent "$1" "/dev/tty$2"
}

console=1
for node in $(echo "$RIG_NODES" | tr , ' '); do
    console=$((console + 1))
    ip netns add "$node"
    ip -n "$node" link set lo up
    # A node has two cables: one can be cut and the other stay.  Its end is named by what it leads to.
    for network in storage origin; do
        [ $network = storage ] && third=$console service=10.77.0.1 || third=$((100 + console)) service=10.77.0.2
        ip link add "$node-$network" type veth peer name $network netns "$node"
        ip addr add "10.77.$third.1/24" dev "$node-$network"
        ip link set "$node-$network" up
        ip -n "$node" addr add "10.77.$third.2/24" dev $network
        ip -n "$node" link set $network up
        ip -n "$node" route add $service via "10.77.$third.1"
    done
    ip netns exec "$node" unshare --uts --mount --pid --fork --mount-proc --propagation private /bin/sh -ec "
        hostname $node
        umount --recursive /mnt # the server's file systems
        for directory in /run /mnt; do mount -t tmpfs tmpfs \$directory; done
        mount -t tmpfs tmpfs /var/lib/nfs
        mkdir /run/lock /run/rpcbind /run/sendsigs.omit.d /mnt/large /mnt/small /var/lib/nfs/sm /var/lib/nfs/sm.bak
        exec '$RIG_PYTHON' -m tests.rig.nfs.agent $node /dev/tty$console" &
done
agent srv 1
