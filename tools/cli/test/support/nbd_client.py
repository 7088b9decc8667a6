"""The client of the kill test and of the flush cost test, on libnbd: an implementation that is not ours.

    nbd_client.py write  SOCKET SEED LOG        random writes, flushed every few, until the server is gone
    nbd_client.py verify SOCKET SEED LOG TRUTH  what may stand where, after the log; updates TRUTH
    nbd_client.py cost   SOCKET SEED COUNT      COUNT random 4 KiB writes into different clusters, each flushed

The log has a line for every write before it is sent (`W number offset length`) and one for every flush that
was answered (`F number`: all writes up to this one were answered before the flush was sent, hence are durable).
"""

import json
import os
import random
import sys

import nbd

SECTOR = 512
KIB = 1024


def connect(socket):
    handle = nbd.NBD()
    handle.connect_unix(socket)
    return handle


def payload(seed, number, length):
    return random.Random(f"{seed}/{number}").randbytes(length)


def write(socket, seed, log_path):
    """Groups of one to six writes in flight together, disjoint, and a flush after about half of the groups."""
    choose = random.Random(seed)
    handle = connect(socket)
    size = handle.get_size()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    number = 0
    try:
        while True:
            taken = []
            cookies = []
            for _ in range(choose.randint(1, 6)):
                offset, length = pick(choose, size)
                if any(offset < end and start < offset + length for start, end in taken):
                    continue
                taken.append((offset, offset + length))
                number += 1
                os.write(log, f"W {number} {offset} {length}\n".encode())
                data = nbd.Buffer.from_bytearray(bytearray(payload(seed, number, length)))
                cookies.append(handle.aio_pwrite(data, offset))
            for cookie in cookies:
                while not handle.aio_command_completed(cookie):
                    handle.poll(-1)
            if choose.random() < 0.5:
                handle.flush()
                os.write(log, f"F {number}\n".encode())
    except nbd.Error:
        # The server was killed: that is how this ends.
        print(json.dumps({"writes": number}))


def pick(choose, size):
    """Mostly small, some large; half of them near each other, so that clusters are written again and again."""
    limit = choose.choice([4 * KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB])
    length = choose.randrange(4 * KIB, limit + 1, SECTOR)
    region = 16 * KIB * KIB if choose.random() < 0.5 else size
    return choose.randrange(0, region - length + 1, SECTOR), length


def verify(socket, seed, log_path, truth_path):
    """Each sector holds what its last flushed write wrote, or what a later one did; if none was flushed, the old."""
    durable, writes = parse_log(log_path)
    possible = {}
    for number, offset, length in writes:
        for sector in range(offset // SECTOR, (offset + length) // SECTOR):
            entry = (number, sector * SECTOR - offset)
            if number <= durable:
                possible[sector] = [entry]
            else:
                # None stands for what was there before.
                possible.setdefault(sector, [None]).append(entry)
    handle = connect(socket)
    data = {number: payload(seed, number, length) for number, _, length in writes}
    wrong = []
    newer = 0
    with open(truth_path, "r+b") as truth:
        for start, end in runs(sorted(possible)):
            held = b"".join(handle.pread(min(KIB * KIB, end - at), at) for at in range(start, end, KIB * KIB))
            truth.seek(start)
            old = truth.read(end - start)
            for at in range(start, end, SECTOR):
                sector = held[at - start : at - start + SECTOR]
                before = old[at - start : at - start + SECTOR]
                which = matching(sector, before, possible[at // SECTOR], data)
                if which is None:
                    wrong.append(at)
                elif which > 0:
                    newer += 1
            truth.seek(start)
            truth.write(held)
    report = {"writes": len(writes), "durable": durable, "sectors": len(possible), "newer": newer, "wrong": wrong[:20]}
    print(json.dumps(report))


def parse_log(log_path):
    durable = 0
    writes = []
    with open(log_path, encoding="ascii") as log:
        for line in log:
            kind, *numbers = line.split()
            if kind == "F":
                durable = int(numbers[0])
            else:
                writes.append(tuple(int(value) for value in numbers))
    return durable, writes


def runs(sectors):
    """Neighbouring sectors as byte ranges."""
    start = previous = None
    for sector in sectors:
        if previous is not None and sector != previous + 1:
            yield start * SECTOR, (previous + 1) * SECTOR
            start = sector
        if start is None:
            start = sector
        previous = sector
    if start is not None:
        yield start * SECTOR, (previous + 1) * SECTOR


def matching(sector, before, candidates, data):
    """Index of the candidate that the sector holds; None where it holds none of them."""
    for index, candidate in enumerate(candidates):
        if candidate is None:
            if sector == before:
                return index
        else:
            number, at = candidate
            if sector == data[number][at : at + SECTOR]:
                return index
    return None


def cost(socket, seed, count):
    choose = random.Random(seed)
    handle = connect(socket)
    cluster = 64 * KIB
    clusters = choose.sample(range(handle.get_size() // cluster), int(count))
    for number, index in enumerate(clusters):
        offset = index * cluster + choose.randrange(0, cluster, 4 * KIB)
        handle.pwrite(payload(seed, number, 4 * KIB), offset)
        handle.flush()
    handle.shutdown()


if __name__ == "__main__":
    {"write": write, "verify": verify, "cost": cost}[sys.argv[1]](*sys.argv[2:])
