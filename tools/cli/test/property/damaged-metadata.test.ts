/** `info` on metadata that is cut short or has flipped bits: facts or an error with a code, never anything else. */
import { MemoryDevice } from '@qcow2/block-device';
import { createImage } from '@qcow2/driver';
import { Qcow2Error } from '@qcow2/spec';
import fc from 'fast-check';
import { beforeAll, describe, expect, it } from 'vitest';
import { gatherFacts } from '../../src/gather-facts.ts';
import { imageJson, imageText } from '../../src/image-report.ts';
import { jsonText } from '../../src/json-text.ts';

const headerBytes = 4096;
let sound: Uint8Array;

beforeAll(async () => {
  const device = new MemoryDevice();
  await createImage(device, {
    sizeBytes: 2 ** 24,
    clusterBytes: headerBytes,
    backingFile: 'base.raw',
    backingFormat: 'raw',
    journal: { sizeBytes: 2 ** 16, blockBytes: 512 },
  });
  sound = new Uint8Array(device.sizeBytes);
  await device.read(0, sound);
});

/** What `info` does with a file of these bytes. */
async function report(bytes: Uint8Array): Promise<string> {
  const device = MemoryDevice.fromBytes(bytes);
  try {
    const qcow2 = await gatherFacts(device, 'x.qcow2');
    const facts = { path: 'x.qcow2', format: 'qcow2', virtualSizeBytes: 0, diskBytes: 0, qcow2 } as const;
    return imageText(facts) + jsonText(imageJson(facts));
  } catch (error) {
    if (error instanceof Qcow2Error) return error.code;
    throw error;
  }
}

describe('damaged metadata', () => {
  it('is sound before it is damaged', async () => {
    expect(await report(sound)).toContain('state: clean');
  });

  it('with bits flipped in the header gives facts or a code', async () => {
    const flip = fc.record({ at: fc.nat({ max: 1023 }), bit: fc.nat({ max: 7 }) });
    await fc.assert(
      fc.asyncProperty(fc.array(flip, { minLength: 1, maxLength: 4 }), async (flips) => {
        const bytes = sound.slice();
        for (const { at, bit } of flips) bytes[at] = (bytes[at] ?? 0) ^ (1 << bit);
        expect(typeof (await report(bytes))).toBe('string');
      }),
      { numRuns: 2000 },
    );
  });

  it('cut anywhere gives facts or a code', async () => {
    await fc.assert(
      fc.asyncProperty(fc.nat({ max: 2 * headerBytes }), async (lengthBytes) => {
        expect(typeof (await report(sound.slice(0, lengthBytes)))).toBe('string');
      }),
      { numRuns: 300 },
    );
  });
});
