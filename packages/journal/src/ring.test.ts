import { MemoryDevice, RecordingDevice, run } from '@qcow2/block-device';
import { describe, expect, it } from 'vitest';
import { random } from '../test/support/random.ts';
import { RingReader, writeRing } from './ring.ts';

const ring = { hostOffset: 4096, lengthBytes: 16 * 512, blockBytes: 512 };

describe('the ring', () => {
  it('[JRN-REC-008] goes on at its first block where a record reaches its end', async () => {
    for (let position = 0; position < ring.lengthBytes; position += 512) {
      const memory = new MemoryDevice({ sizeBytes: 16384 });
      const device = new RecordingDevice(memory);
      const bytes = new Uint8Array(3 * 512);
      random(position).fill(bytes);
      // A log offset counts on; its place is the remainder.
      await run(writeRing(device, ring, position + 7 * ring.lengthBytes, bytes, 'journal_append'));
      const seen = await run(new RingReader(memory, ring).read(position, bytes.length));
      expect(seen).toEqual(bytes);
      for (const operation of device.log) {
        if (operation.kind !== 'write') continue;
        expect(operation.offset).toBeGreaterThanOrEqual(ring.hostOffset);
        expect(operation.offset + operation.bytes.length).toBeLessThanOrEqual(
          ring.hostOffset + ring.lengthBytes,
        );
      }
    }
  });

  it('is read alike through windows of every size', async () => {
    const memory = new MemoryDevice({ sizeBytes: 16384 });
    const content = new Uint8Array(ring.lengthBytes);
    random(3).fill(content);
    memory.write(ring.hostOffset, content);
    const twice = new Uint8Array(2 * content.length);
    twice.set(content);
    twice.set(content, content.length);
    for (const windowBytes of [512, 1024, 1536, 4096, 1 << 20]) {
      const reader = new RingReader(memory, ring, windowBytes);
      const rng = random(windowBytes);
      for (let turn = 0; turn < 200; turn++) {
        const position = rng.below(16) * 512;
        const length = (1 + rng.below(8)) * 512;
        const seen = await run(reader.read(position, length));
        expect(Buffer.compare(seen, twice.subarray(position, position + length))).toBe(0);
      }
    }
  });

  it('is read in large pieces by who goes forward', async () => {
    const device = new RecordingDevice(new MemoryDevice({ sizeBytes: 16384 }));
    const reader = new RingReader(device, ring);
    for (let position = 0; position < ring.lengthBytes; position += 512)
      await run(reader.read(position, 512));
    expect(device.counters).toMatchObject({ reads: 1, readBytes: ring.lengthBytes });
  });
});
