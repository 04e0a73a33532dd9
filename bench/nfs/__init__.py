"""dsfs on several nodes that share a directory by NFS, measured in the guest of tests/rig/nfs: see bench/README.md."""
