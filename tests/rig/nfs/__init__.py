"""Several real NFS clients and their server, in a process: what the tests of level `nfs` run on.

The process is a user-mode Linux (`guest`).  Its root is the root of this machine, read-only; the directory of the
test run is writable there at the same path, so a test and a node look at the same files.  Inside, one kernel NFS
server and several nodes (`server`, `client`), each a network, mount, PID and UTS namespace with an NFS client of its
own, and an S3 server behind a counting proxy (`origin`).  `network` cuts and delays, `rig` puts it all together.

The guest has one slow CPU: compare counts there, not seconds.
"""
