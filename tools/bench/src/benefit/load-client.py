"""The load of `bench benefit`: asks a server over NBD what a file of operations says, one after the other.

usage: load-client.py SOCKET OPERATIONS

Operations are 16 bytes each, little-endian: guest offset (8), length (4), kind (4; 1 writes, 2 flushes). The answer is JSON on
standard output: nanoseconds for everything, nanoseconds of each flush in their order, and when it began and ended in seconds
since 1970. A last flush is not in the figures: what one contender left in the page cache must not
slow down the next.
"""

import gc
import json
import struct
import sys
import time

import nbd


def main(socket, path):
    handle = nbd.NBD()
    handle.set_strict_mode(0)  # offsets are known to be right; checks cost time
    handle.connect_unix(socket)
    with open(path, "rb") as file:
        operations = list(struct.iter_unpack("<QII", file.read()))
    pattern = bytes((i * 131 + (i >> 8) * 31 + 7) % 255 + 1 for i in range(65536))
    buffers = {}
    for _, length, kind in operations:
        if kind == 1 and length not in buffers:
            buffers[length] = (pattern * (length // len(pattern) + 1))[:length]
    latencies = []
    write, flush, now = handle.pwrite, handle.flush, time.perf_counter_ns
    gc.disable()
    began = time.time()
    start = now()
    for offset, length, kind in operations:
        if kind == 1:
            write(buffers[length], offset)
        else:
            before = now()
            flush()
            latencies.append(now() - before)
    elapsed = now() - start
    ended = time.time()
    handle.flush()
    handle.shutdown()
    answer = {"elapsedNs": elapsed, "flushNs": latencies, "began": began, "ended": ended}
    json.dump(answer, sys.stdout)


main(*sys.argv[1:])
