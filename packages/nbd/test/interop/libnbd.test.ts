import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { MemoryDevice } from '@qcow2/block-device';
import { expect, test } from 'vitest';
import { nbdUri } from '../../src/index.ts';
import { patterned, serve } from '../support/fixture.ts';
import { python, runPeer, withPeers } from '../support/peers.ts';

const sizeBytes = 16 * 1024 * 1024;
const memory = (): MemoryDevice =>
  new MemoryDevice({ sizeBytes, capabilities: { growable: false, preferredBlockBytes: 65536 } });

/** Run a script with `h`, a handle that is not connected yet, and `uri`. */
function script(uri: string, lines: string): Promise<string> {
  return runPeer(python, ['-', uri], `import nbd, sys, errno\nuri = sys.argv[1]\nh = nbd.NBD()\n${lines}\n`);
}

withPeers('nbdinfo', ['nbdinfo'], () => {
  test('lists the exports with what they can', async () => {
    const device = memory();
    const { address } = await serve({
      exports: [
        { name: '', device, description: 'the first' },
        { name: 'größe', device, readOnly: true, minimumBlockBytes: 512 },
      ],
    });
    const info = JSON.parse(await runPeer('nbdinfo', ['--json', '--list', nbdUri(address)]));
    expect(info).toMatchObject({ protocol: 'newstyle-fixed', TLS: false, structured: true });
    expect(info.exports[0]).toMatchObject({
      'export-name': '',
      description: 'the first',
      contexts: ['base:allocation'],
      'export-size': sizeBytes,
      block_size_minimum: 1,
      block_size_preferred: 65536,
      block_size_maximum: 32 * 1024 * 1024,
      is_read_only: false,
      is_rotational: false,
      can_cache: true,
      can_df: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
    });
    expect(info.exports[1]).toMatchObject({
      'export-name': 'größe',
      block_size_minimum: 512,
      is_read_only: true,
      can_flush: false,
      can_trim: false,
      can_zero: false,
      can_multi_conn: true,
    });
  });

  test('finds an export by its URI, on TCP too', async () => {
    const { server } = await serve({ exports: [{ name: 'a b/ü', device: memory() }] });
    const uri = nbdUri(await server.listen({ host: '127.0.0.1', port: 0 }), 'a b/ü');
    expect(await runPeer('nbdinfo', ['--size', uri])).toBe(`${sizeBytes}\n`);
  });

  test('maps holes and data', async () => {
    const device = memory();
    device.write(1024 * 1024, patterned(65536, 1));
    const { address } = await serve({ exports: [{ name: '', device, holesReadAsZeros: true }] });
    const map: { offset: number; length: number; type: number }[] = JSON.parse(
      await runPeer('nbdinfo', ['--map', '--json', nbdUri(address)]),
    );
    expect(map.map(({ offset, length, type }) => [offset, length, type])).toEqual([
      [0, 1024 * 1024, 3],
      [1024 * 1024, 65536, 0],
      [1024 * 1024 + 65536, sizeBytes - 1024 * 1024 - 65536, 3],
    ]);
  });
});

withPeers('libnbd', ['libnbd'], () => {
  test.each([
    ['structured replies', ''],
    ['simple replies', 'h.set_request_structured_replies(False)'],
    [
      'simple replies, EXPORT_NAME with its zeros',
      'h.set_request_structured_replies(False); h.set_handshake_flags(0)',
    ],
  ])('reads, writes, FUA, flush, trim, zero, cache with %s', async (_, mode) => {
    const device = memory();
    const { address, server } = await serve({ exports: [{ name: '', device }] });
    await script(
      nbdUri(address),
      `
${mode}
h.connect_uri(uri)
assert h.get_size() == ${sizeBytes}
data = bytes(range(256)) * 40
h.pwrite(data, 1000)
assert h.pread(len(data), 1000) == data
h.pwrite(data, 100000, nbd.CMD_FLAG_FUA)
h.flush()
h.zero(100, 1100)
h.zero(100, 1300, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
h.zero(65536, 131072, nbd.CMD_FLAG_FAST_ZERO)
expected = bytearray(data)
expected[100:200] = bytes(100)
expected[300:400] = bytes(100)
assert h.pread(len(data), 1000) == expected
h.cache(65536, 0)
h.trim(4096, 8192, nbd.CMD_FLAG_FUA)
big = bytes(range(251)) * 60000
h.pwrite(big, 0)
assert h.pread(len(big), 0) == big
h.shutdown()
`,
    );
    const { requests, failures } = server.counters();
    expect(failures).toBe(0);
    expect(requests).toMatchObject({
      WRITE: 3,
      READ: 3,
      FLUSH: 1,
      WRITE_ZEROES: 3,
      CACHE: 1,
      TRIM: 1,
      DISC: 1,
    });
  });

  test('gets the right error for each wrong request, and goes on', async () => {
    const { address } = await serve({
      exports: [
        { name: '', device: memory(), minimumBlockBytes: 512 },
        { name: 'ro', device: memory(), readOnly: true },
      ],
    });
    await script(
      nbdUri(address),
      `
def fails(number, call, *arguments):
    try:
        call(*arguments)
    except nbd.Error as error:
        assert error.errnum == number, (error.errnum, error.string)
    else:
        assert False, 'did not fail'
for structured in True, False:
    h = nbd.NBD()
    h.set_request_structured_replies(structured)
    h.set_strict_mode(0)
    h.connect_uri(uri)
    fails(errno.EINVAL, h.pread, 512, ${sizeBytes})
    fails(errno.ENOSPC, h.pwrite, bytes(512), ${sizeBytes})
    fails(errno.ENOSPC, h.zero, 1024, ${sizeBytes} - 512)
    fails(errno.EINVAL, h.trim, 1024, ${sizeBytes} - 512)
    fails(errno.EINVAL, h.pread, 100, 0)
    fails(errno.EINVAL, h.pwrite, bytes(512), 1)
    fails(errno.EINVAL, h.pwrite, bytes(512), 0, 0x8000)
    fails(errno.ENOTSUP, h.zero, 512, 512, nbd.CMD_FLAG_FAST_ZERO)
    assert h.pread(512, 0) == bytes(512)
    h.shutdown()
h = nbd.NBD()
h.set_strict_mode(0)
h.set_export_name('ro')
h.connect_uri(uri.replace(':///', ':///ro'))
for call in (lambda: h.pwrite(bytes(512), 0)), (lambda: h.trim(512, 0)), (lambda: h.zero(512, 0)):
    fails(errno.EPERM, call)
h.shutdown()
`,
    );
  });

  test('keeps many requests in flight on many connections', async () => {
    const { address, server } = await serve({ exports: [{ name: '', device: memory() }] });
    await script(
      nbdUri(address),
      `
import random
random.seed(1)
handles = []
for _ in range(4):
    each = nbd.NBD()
    each.connect_uri(uri)
    assert each.can_multi_conn()
    handles.append(each)
slot = 32768
model = bytearray(${sizeBytes})
for round in range(10):
    slots = random.sample(range(${sizeBytes} // slot), 200)
    for index, at in enumerate(slots):
        data = random.randbytes(random.randrange(1, slot))
        model[at * slot : at * slot + len(data)] = data
        handles[index % 4].aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), at * slot)
    while any(each.aio_in_flight() for each in handles):
        for each in handles:
            if each.aio_in_flight(): each.poll(-1)
    handles[round % 4].flush()
    buffers = []
    for index, at in enumerate(slots):
        buffer = nbd.Buffer(slot)
        buffers.append((at, buffer))
        handles[(index + 1) % 4].aio_pread(buffer, at * slot)
    while any(each.aio_in_flight() for each in handles):
        for each in handles:
            if each.aio_in_flight(): each.poll(-1)
    for at, buffer in buffers:
        assert buffer.to_bytearray() == model[at * slot : at * slot + slot], at
for each in handles: each.shutdown()
`,
    );
    expect(server.counters()).toMatchObject({ connections: 4, failures: 0, requests: { FLUSH: 10 } });
  });

  test('negotiates step by step', async () => {
    const { address } = await serve({ exports: [{ name: 'x', device: memory(), description: 'an x' }] });
    await script(
      nbdUri(address),
      `
h.set_opt_mode(True)
h.set_full_info(True)
h.connect_uri(uri)
names = []
h.opt_list(lambda name, description: names.append((name, description)))
assert names == [('x', 'an x')], names
try:
    h.opt_info()
    assert False
except nbd.Error as error:
    assert error.errnum == errno.ENOENT, error.errnum
h.set_export_name('x')
contexts = []
h.opt_list_meta_context(lambda name: contexts.append(name))
assert contexts == ['base:allocation'], contexts
h.add_meta_context('base:allocation')
h.opt_info()
assert h.get_canonical_export_name() == 'x'
assert h.get_export_description() == 'an x'
h.opt_go()
assert h.can_meta_context('base:allocation')
seen = []
h.block_status(65536, 0, lambda context, offset, entries, error: seen.extend(entries))
assert seen == [65536, 0], seen
h.shutdown()
other = nbd.NBD()
other.set_opt_mode(True)
other.connect_uri(uri)
other.opt_abort()
`,
    );
  });
});

withPeers('nbdcopy', ['nbdcopy'], () => {
  const content = Buffer.alloc(sizeBytes);
  for (let at = 0; at < sizeBytes; at += 3 * 1024 * 1024) patterned(500_000, at).copy(content, at + 12_345);

  test('copies out, past the holes', async () => {
    const device = memory();
    device.write(0, content);
    device.writeZeroes(8 * 1024 * 1024, 65536);
    const { address, folder, server } = await serve({
      exports: [{ name: '', device, holesReadAsZeros: true }],
    });
    const expected = Buffer.from(content).fill(0, 8 * 1024 * 1024, 8 * 1024 * 1024 + 65536);
    await runPeer('nbdcopy', [
      '--threads=4',
      '--connections=4',
      '--requests=32',
      nbdUri(address),
      join(folder, 'out'),
    ]);
    expect(readFileSync(join(folder, 'out')).equals(expected)).toBe(true);
    expect(server.counters()).toMatchObject({ connections: 4, failures: 0 });
  });

  test('copies in, zeroes and all, and flushes', async () => {
    const device = memory();
    device.write(0, Buffer.alloc(sizeBytes, 0xff));
    const { address, folder, server } = await serve({ exports: [{ name: '', device }] });
    writeFileSync(join(folder, 'in'), content);
    await runPeer('nbdcopy', ['--connections=3', '--flush', join(folder, 'in'), nbdUri(address)]);
    const held = new Uint8Array(sizeBytes);
    device.read(0, held);
    expect(content.equals(held)).toBe(true);
    expect(server.counters().requests.FLUSH).toBeGreaterThan(0);
  });
});
