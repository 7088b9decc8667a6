#!/usr/bin/env python3
"""Images with a journal of the draft of 2013, made without any of our code.

The layouts below are transcribed from the C declarations of the draft (struct Qcow2JournalHeader and Qcow2JournalBlock in
block/qcow2-journal.c, struct Qcow2JournalDesc* in block/qcow2.h; famz/qemu, commit bbe0e382e05145a4493d41c4a5591ae67fdce07e), field by
field as struct formats; what fields mean, from docs/specs/qcow2.txt of the same commit. Replay is done here too, in the plainest way that
the text allows, so that what an image must show afterwards is not our word either.

    python3 make_vectors.py > vectors.json
"""
import base64
import hashlib
import json
import struct
import zlib

# Of packed C structs, big-endian on disk: Q is uint64_t, I uint32_t, H uint16_t.
JOURNAL_HEADER = '>QIIIIII'  # magic, journal_size, block_size (an order), synced_index, synced_seq, committed_seq, checksum
JOURNAL_BLOCK = '>IIIIII'  # magic, checksum, seq, desc_offset, desc_bytes, nb_data_blocks
DESC = '>HH'  # type, size
WRITE = '>IQI'  # length, target_offset, data_block_index
COPY = '>IQQ'  # length, target_offset, source_offset
REVOKE = '>IQ'  # length, target_offset
NOOP_TYPE, WRITE_TYPE, COPY_TYPE, REVOKE_TYPE, DEDUP_TYPE = range(5)
JOURNAL_MAGIC = 0x716A6F75726E616C
BLOCK_MAGIC = 0x716A626B

CLUSTER = 4096
GUEST_CLUSTERS = 8
FIRST_DATA = 5  # clusters: header, refcount table, refcount block, L1 table, L2 table, data
JOURNAL_CLUSTER = 16
DIRTY = 1 << 2
VALID = 1 << 0
COPIED = 1 << 63
L2_AT = 4 * CLUSTER
REFCOUNTS_AT = 2 * CLUSTER


def data_at(cluster):
    """Host offset of a guest cluster that is mapped from the start."""
    return (FIRST_DATA + cluster) * CLUSTER


def pattern(seed, length):
    return bytes((seed * 37 + i * 7 + (i >> 8)) & 255 for i in range(length))


def checksum(data):
    return ~sum(data) & 0xFFFFFFFF


class Image:
    """A qcow2 image of version 3 whose guest clusters 0 to 7 are mapped, with a journal behind them."""

    def __init__(self, order, ring_blocks):
        self.block = 1 << order
        self.order = order
        self.ring_blocks = ring_blocks
        self.journal_bytes = (1 + ring_blocks) * self.block
        journal_clusters = -(-self.journal_bytes // CLUSTER)
        self.at = JOURNAL_CLUSTER * CLUSTER
        self.bytes = bytearray((JOURNAL_CLUSTER + journal_clusters) * CLUSTER)
        self.committed = []  # effects of transactions, for the replay below
        used = list(range(FIRST_DATA + GUEST_CLUSTERS)) + list(range(JOURNAL_CLUSTER, JOURNAL_CLUSTER + journal_clusters))
        for cluster in used:
            self.put(REFCOUNTS_AT + 2 * cluster, struct.pack('>H', 1))
        self.put(CLUSTER, struct.pack('>Q', REFCOUNTS_AT))
        self.put(3 * CLUSTER, struct.pack('>Q', L2_AT | COPIED))
        for cluster in range(GUEST_CLUSTERS):
            self.put(L2_AT + 8 * cluster, struct.pack('>Q', data_at(cluster) | COPIED))
            self.put(data_at(cluster), pattern(cluster, CLUSTER))
        self.next_block = 1

    def put(self, at, data):
        self.bytes[at:at + len(data)] = data

    def header(self, dirty=True):
        disk = 64 * CLUSTER
        fields = struct.pack(
            '>4sIQIIQIIQQIIQQQQII', b'QFI\xfb', 3, 0, 0, 12, disk, 0, 1, 3 * CLUSTER, CLUSTER, 1, 0, 0,
            DIRTY if dirty else 0, 0, VALID, 4, 112)
        self.put(0, fields + struct.pack('>Q', self.at) + bytes(8))

    def journal_header(self, synced_index, synced_seq, committed_seq):
        self.header()
        body = bytearray(self.block)
        head = (JOURNAL_MAGIC, self.journal_bytes, self.order, synced_index, synced_seq, committed_seq)
        struct.pack_into(JOURNAL_HEADER, body, 0, *head, 0)
        struct.pack_into('>I', body, 28, checksum(body[:28] + body[32:]))
        self.put(self.at, body)

    def ring_index(self, index):
        """Block `index` counted from 1, behind the last one comes 1 again."""
        return (index - 1) % self.ring_blocks + 1

    def put_block(self, index, data):
        self.put(self.at + self.ring_index(index) * self.block, data.ljust(self.block, b'\0'))

    def transaction(self, seq, ops, desc_offset=24, effects=None, nb_data_blocks=None):
        """Append one. `ops`: ('write', [(target, data), …]), ('copy', [(length, target, source), …]), ('revoke', [(length, target), …]),
        ('noop', body), ('raw', type, body)."""
        first = self.next_block + 1
        data, descriptors, mine = b'', b'', []
        for op in ops:
            if op[0] == 'write':
                body = b''
                for target, chunk in op[1]:
                    index = self.ring_index(first + len(data) // self.block)
                    body += struct.pack(WRITE, len(chunk), target, index)
                    data += chunk + bytes(-len(chunk) % self.block)
                    mine.append(('write', target, chunk))
                descriptors += struct.pack(DESC, WRITE_TYPE, 4 + len(body)) + body
            elif op[0] == 'copy':
                body = b''.join(struct.pack(COPY, *chunk) for chunk in op[1])
                mine += [('copy', target, source, length) for length, target, source in op[1]]
                descriptors += struct.pack(DESC, COPY_TYPE, 4 + len(body)) + body
            elif op[0] == 'revoke':
                body = b''.join(struct.pack(REVOKE, *chunk) for chunk in op[1])
                mine += [('revoke', target, length) for length, target in op[1]]
                descriptors += struct.pack(DESC, REVOKE_TYPE, 4 + len(body)) + body
            elif op[0] == 'noop':
                descriptors += struct.pack(DESC, NOOP_TYPE, 4 + len(op[1])) + op[1]
            else:
                descriptors += struct.pack(DESC, op[1], 4 + len(op[2])) + op[2]
        count = len(data) // self.block if nb_data_blocks is None else nb_data_blocks
        block = bytearray(self.block)
        struct.pack_into(JOURNAL_BLOCK, block, 0, BLOCK_MAGIC, 0, seq, desc_offset, len(descriptors), count)
        block[24:desc_offset] = b'\xee' * (desc_offset - 24)
        block[desc_offset:desc_offset + len(descriptors)] = descriptors
        struct.pack_into('>I', block, 4, checksum(block[:4] + block[8:] + data))
        self.put_block(self.next_block, bytes(block))
        for i in range(0, len(data), self.block):
            self.put_block(first + i // self.block, data[i:i + self.block])
        self.next_block = self.ring_index(first + len(data) // self.block)
        if effects is not False:
            self.committed.append(mine)

    def end(self):
        """The block of zeros behind the chain."""
        self.put_block(self.next_block, b'')

    def replayed(self):
        """The image file's bytes after the committed transactions, revokes of later ones taken into account byte by byte."""
        result = bytearray(self.bytes)
        for number, transaction in enumerate(self.committed):
            revoked = set()
            for later in self.committed[number + 1:]:
                for effect in later:
                    if effect[0] == 'revoke':
                        revoked.update(range(effect[1], effect[1] + effect[2]))
            for effect in transaction:
                if effect[0] == 'write':
                    new = effect[2]
                elif effect[0] == 'copy':
                    new = bytes(result[effect[2]:effect[2] + effect[3]])
                else:
                    continue
                for i, byte in enumerate(new):
                    if effect[1] + i not in revoked:
                        if effect[1] + i >= len(result):
                            result.extend(bytes(effect[1] + i + 1 - len(result)))
                        result[effect[1] + i] = byte
        return result

    def guest(self):
        """What the guest sees after the replay: the disk of 64 clusters through the L2 table."""
        host = self.replayed()
        disk = b''
        for cluster in range(64):
            entry = struct.unpack_from('>Q', host, L2_AT + 8 * cluster)[0]
            at = entry & 0x00FFFFFFFFFFFE00
            piece = bytes(host[at:at + CLUSTER]) if at != 0 else b''
            disk += piece.ljust(CLUSTER, b'\0')
        return disk


vectors = []


def vector(name, why, image, error=None, transactions=None):
    packed = base64.b64encode(zlib.compress(bytes(image.bytes), 9)).decode()
    entry = {
        'name': name, 'why': why, 'sizeBytes': len(image.bytes),
        'sha256': hashlib.sha256(image.bytes).hexdigest(), 'image': packed,
    }
    if error is None:
        entry['guestSha256'] = hashlib.sha256(image.guest()).hexdigest()
        entry['transactions'] = len(image.committed) if transactions is None else transactions
    else:
        entry['error'] = error
    vectors.append(entry)


def new_cluster(image, cluster, host_cluster, content):
    """A guest cluster that was not mapped gets a host cluster: refcount and L2 entry go through the journal, the data stands in place."""
    image.bytes.extend(bytes(max(0, (host_cluster + 1) * CLUSTER - len(image.bytes))))
    image.put(host_cluster * CLUSTER, content)
    return [
        (REFCOUNTS_AT + 2 * host_cluster, struct.pack('>H', 1)),
        (L2_AT + 8 * cluster, struct.pack('>Q', host_cluster * CLUSTER | COPIED)),
    ]


image = Image(9, 39)
image.journal_header(0, 0, 0)
vector('empty', 'a dirty image whose journal holds nothing', image)

image = Image(9, 39)
image.transaction(1, [('write', new_cluster(image, 20, 13, pattern(99, CLUSTER)))])
image.end()
image.journal_header(0, 0, 1)
vector('allocation', 'one transaction: a refcount and an L2 entry, each in a data block of its own', image)

image = Image(9, 39)
image.transaction(1, [('write', [(data_at(0) + 5, pattern(40, 1300))])])
image.transaction(2, [('write', [(data_at(0), pattern(41, 100)), (data_at(1) + 4000, pattern(42, 96))])])
image.transaction(3, [('write', [(data_at(2), pattern(43, 512))])], effects=False)
image.end()
image.journal_header(0, 0, 2)
vector('uncommitted', 'the third transaction is whole, and was not committed', image)

image = Image(9, 39)
image.transaction(4, [('write', [(data_at(0), pattern(50, 512))])], effects=False)
image.transaction(5, [('write', [(data_at(1), pattern(51, 512))])])
image.end()
image.journal_header(1, 4, 5)
vector('synced', 'the transaction at the synced index was performed once, and is not performed again', image)

image = Image(9, 39)
image.next_block = 37
image.transaction(8, [], effects=False)
image.transaction(9, [('write', [(data_at(0) + 100, pattern(60, 1300))])])
image.transaction(10, [('write', [(data_at(3), pattern(61, 30))])])
image.journal_header(37, 8, 10)
vector('wrapped', 'behind block 39 of the ring comes block 1, within one transaction and one chunk', image)

image = Image(9, 39)
image.next_block = 3
image.transaction(0xFFFFFFFE, [], effects=False)
image.transaction(0xFFFFFFFF, [('write', [(data_at(0), pattern(70, 20))])])
image.transaction(0, [('write', [(data_at(0) + 10, pattern(71, 20))])])
image.transaction(1, [('write', [(data_at(0) + 20, pattern(72, 20))])])
image.end()
image.journal_header(3, 0xFFFFFFFE, 1)
vector('sequence-wraparound', 'sequences 0xffffffff, 0 and 1 follow each other', image)

image = Image(9, 39)
image.transaction(1, [('copy', [(512, data_at(1), data_at(0)), (100, data_at(2) + 7, data_at(0) + 3000)])])
image.transaction(2, [('write', [(data_at(4), pattern(80, 512))]), ('copy', [(512, data_at(3), data_at(1))])])
image.end()
image.journal_header(0, 0, 2)
vector('copies', 'a copy of what an earlier transaction copied', image)

image = Image(9, 39)
image.transaction(1, [('write', [(data_at(0), pattern(90, 600)), (data_at(1), pattern(91, 512))])])
image.transaction(2, [('revoke', [(200, data_at(0) + 100), (512, data_at(1))]), ('write', [(data_at(1) + 10, pattern(92, 5))])])
image.end()
image.journal_header(0, 0, 2)
vector('revokes', 'a revoke takes the middle out of an earlier write, and leaves its own transaction alone', image)

image = Image(12, 39)
image.transaction(1, [('noop', bytes(range(13))), ('write', [(data_at(5) + 1, pattern(100, 4000))]), ('noop', b'')], desc_offset=40)
image.end()
image.journal_header(0, 0, 1)
vector('blocks-of-4096', 'blocks as large as clusters, no-ops, and an extension of the block header', image)

image = Image(9, 39)
image.transaction(1, [('write', [(data_at(0), pattern(110, 512))])])
image.transaction(2, [('write', [(data_at(1), pattern(111, 512))])])
image.end()
image.journal_header(0, 0, 2)
image.bytes[image.at + 2 * 512 + 77] ^= 0x10
vector('damaged', 'a bit of the first transaction\'s data is wrong, and it was committed', image, error='JOURNAL_DAMAGED')

image = Image(9, 39)
image.transaction(1, [('write', [(data_at(0), pattern(112, 512))])])
image.journal_header(0, 0, 2)
vector('missing', 'the second transaction was committed and is not there', image, error='JOURNAL_DAMAGED')

image = Image(9, 39)
image.transaction(1, [('raw', DEDUP_TYPE, bytes(8))])
image.end()
image.journal_header(0, 0, 1)
vector('deduplication', 'a descriptor of the type that the draft leaves open', image, error='UNSUPPORTED_FEATURE')

image = Image(9, 39)
image.transaction(1, [('write', [(data_at(0), pattern(113, 512))])], nb_data_blocks=39)
image.end()
image.journal_header(0, 0, 1)
vector('too-many-blocks', 'a transaction that counts more data blocks than the ring has', image, error='JOURNAL_DAMAGED')

print(json.dumps(vectors, indent=2))
