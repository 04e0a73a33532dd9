"""The policy of the cache on traces of reads, without I/O, beside LRU and the optimum."""
