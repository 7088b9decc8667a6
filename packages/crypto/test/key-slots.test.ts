/** Key slots of a header in memory: who opens it, and what a crash at any write of a change leaves. */
import { decodeLuksHeader, encodeLuksHeader } from '@qcow2/codec';
import type { GuestCipher } from '@qcow2/driver';
import { luksHeadBytes, Qcow2Error } from '@qcow2/spec';
import { beforeAll, describe, expect, it } from 'vitest';
import { addLuksKey, luksMasterKey, luksPassphrase, newLuks, removeLuksKey } from '../src/index.ts';
import { areaOver, type MemoryArea, memoryArea } from './support/header-area.ts';

const bytesOf = (text: string) => new TextEncoder().encode(text);
const old = bytesOf('correct horse');
const other = bytesOf('battery staple');
/** Short keys and few iterations: these tests are about order, not about time. */
const quick = { cipherBits: 128, cipherMode: 'cbc', iterations: 1000 };

let fresh: Uint8Array;
let cipher: GuestCipher;

beforeAll(async () => {
  const prepared = await newLuks({ ...quick, passphrase: old }).prepare();
  fresh = memoryArea(prepared).bytes;
  cipher = await prepared.encryption.unlock(undefined);
});

const area = (): MemoryArea => areaOver(fresh.slice());
const codeOf = async (promise: Promise<unknown>): Promise<string> =>
  await promise.then(
    () => 'none',
    (error: unknown) => (error instanceof Qcow2Error ? error.code : String(error)),
  );

async function opens(at: MemoryArea, passphrase: Uint8Array): Promise<boolean> {
  const code = await codeOf(luksPassphrase(passphrase).unlock(at));
  expect(['none', 'WRONG_SECRET']).toContain(code);
  return code === 'none';
}

function sector(of: GuestCipher): Uint8Array {
  const bytes = new Uint8Array(512).fill(7);
  of.encrypt(bytes, 5);
  return bytes;
}

describe('opening', () => {
  it('[LUKS-KEY-001, LUKS-KEY-002, LUKS-KEY-003, LUKS-KEY-004] the passphrase it was made with, to the key it was made with', async () => {
    expect(sector(await luksPassphrase(old).unlock(area()))).toEqual(sector(cipher));
    expect(await opens(area(), other)).toBe(false);
    expect(await opens(area(), new Uint8Array(0))).toBe(false);
  });

  it('[LUKS-KEY-003] a key is checked by its digest', async () => {
    expect(await codeOf(luksMasterKey(new Uint8Array(16)).unlock(area()))).toBe('WRONG_SECRET');
    expect(await codeOf(luksMasterKey(new Uint8Array(32)).unlock(area()))).toBe('WRONG_SECRET');
  });

  it('[LUKS-HDR-008, LUKS-HDR-009, LUKS-HDR-010] a digest that was changed opens to nobody', async () => {
    for (const at of [112, 131, 132, 163, 167]) {
      const changed = area();
      changed.bytes[at]! ^= 1;
      expect(await opens(changed, old)).toBe(false);
    }
  });

  it('[LUKS-KEY-005, LUKS-KEY-006] one byte of the key material changed, and the key is lost', async () => {
    for (const at of [4096, 4096 + 30_000, 4096 + 63_999]) {
      const changed = area();
      changed.bytes[at]! ^= 0x80;
      expect(await opens(changed, old)).toBe(false);
    }
  });

  it('[LUKS-LIM-002] costly headers are refused before anything is computed', async () => {
    const dear = area();
    const header = decodeLuksHeader(dear.bytes);
    const slots = header.slots.with(0, { ...header.slots[0]!, iterations: 1_000_000 });
    dear.bytes.set(encodeLuksHeader({ ...header, slots }));
    const refused = luksPassphrase(old, { maxIterations: 999_999 }).unlock(dear);
    await expect(refused).rejects.toMatchObject({
      code: 'LIMIT_EXCEEDED',
      context: { field: 'iterations', value: 1_000_000, clause: 'LUKS-LIM-002', hostOffset: 0x50000 + 212 },
    });
  });

  it('[LUKS-KEY-010] no error shows the secret, however it is looked at', async () => {
    const error: unknown = await luksPassphrase(other)
      .unlock(area())
      .catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(Qcow2Error);
    const { inspect } = await import('node:util');
    const shown = inspect(error, { depth: 9, showHidden: true }) + JSON.stringify(luksPassphrase(other));
    expect(shown).not.toContain('staple');
    expect(inspect(luksPassphrase(other), { depth: 9, showHidden: true })).not.toContain('staple');
  });
});

describe('making', () => {
  it.each([
    ['aes-256-xts, sha256', {}],
    ['aes-192-xts, sha512', { cipherBits: 192, hashName: 'sha512' }],
    [
      'aes-128-cbc-essiv:sha256 needs a key of 256 bits for its vectors',
      { cipherBits: 128, cipherMode: 'cbc', ivGenerator: 'essiv' },
    ],
    [
      'aes-256-cbc-essiv:sha256, ripemd160',
      { cipherMode: 'cbc', ivGenerator: 'essiv', hashName: 'ripemd160' },
    ],
    ['aes-256-ctr-plain, sha1', { cipherMode: 'ctr', ivGenerator: 'plain', hashName: 'sha1' }],
    ['sm4-xts', { cipherName: 'sm4' }],
  ])('[LUKS-DATA-009] opens to its key: %s', async (_, choice) => {
    const prepared = await newLuks({ ...choice, passphrase: old, iterations: 1000 }).prepare();
    const made = await prepared.encryption.unlock(undefined);
    expect(sector(await luksPassphrase(old).unlock(memoryArea(prepared)))).toEqual(sector(made));
  });

  it('[LUKS-SLOT-009] key material stands at multiples of 4096', () => {
    const { slots } = decodeLuksHeader(fresh, { lengthBytes: fresh.length });
    expect(slots.map(({ materialOffset }) => materialOffset % 4096)).toEqual(new Array(8).fill(0));
    expect(slots[0]?.materialOffset).toBe(4096);
  });

  it('iterations come of the time that they take, and not below what is worth having', async () => {
    const prepared = await newLuks({
      ...quick,
      iterations: undefined as never,
      unlockMs: 1,
      passphrase: old,
    }).prepare();
    const { slots, digestIterations } = decodeLuksHeader(memoryArea(prepared).bytes);
    expect(slots[0]?.iterations).toBeGreaterThanOrEqual(1000);
    expect(digestIterations).toBeGreaterThanOrEqual(1000);
  });

  it.each([
    ['serpent', { cipherName: 'serpent' }, 'UNSUPPORTED_FEATURE'],
    ['whirlpool', { hashName: 'whirlpool' }, 'UNSUPPORTED_FEATURE'],
    ['512 bits', { cipherBits: 512 }, 'INVALID_ARGUMENT'],
    ['100 bits', { cipherBits: 100 }, 'INVALID_ARGUMENT'],
    ['few iterations', { iterations: 999 }, 'INVALID_ARGUMENT'],
    ['too many', { iterations: 2 ** 26 + 1 }, 'INVALID_ARGUMENT'],
  ])('%s is refused', async (_, choice, code) => {
    expect(await codeOf(newLuks({ iterations: 1000, ...choice, passphrase: old }).prepare())).toBe(code);
  });
});

describe('adding and removing', () => {
  const add = (at: MemoryArea, slot?: number) =>
    addLuksKey(at, {
      passphrase: old,
      newPassphrase: other,
      iterations: 1000,
      ...(slot === undefined ? {} : { slot }),
    });

  it('a second passphrase opens the same key, and the first one too; eight in all', async () => {
    const at = area();
    expect(await add(at)).toBe(1);
    expect(sector(await luksPassphrase(other).unlock(at))).toEqual(sector(cipher));
    expect(await opens(at, old)).toBe(true);
    expect(await add(at, 6)).toBe(6);
    for (let slot = 2; slot < 8; slot++) if (slot !== 6) expect(await add(at)).toBe(slot);
    expect(await codeOf(add(at))).toBe('INVALID_ARGUMENT');
  });

  it('[LUKS-KEY-009] a slot in use is not overwritten, the last one not given up, a wrong passphrase adds nothing', async () => {
    const at = area();
    expect(await codeOf(add(at, 0))).toBe('INVALID_ARGUMENT');
    expect(await codeOf(add(at, 8))).toBe('INVALID_ARGUMENT');
    expect(await codeOf(removeLuksKey(at, { slot: 0 }))).toBe('INVALID_ARGUMENT');
    expect(await codeOf(removeLuksKey(at, { slot: 3 }))).toBe('INVALID_ARGUMENT');
    const wrong = addLuksKey(at, { passphrase: other, newPassphrase: other, iterations: 1000 });
    expect(await codeOf(wrong)).toBe('WRONG_SECRET');
    expect(at.bytes).toEqual(fresh);
    await removeLuksKey(at, { slot: 0, evenTheLast: true });
    expect(await opens(at, old)).toBe(false);
  });

  it('[LUKS-KEY-009] a passphrase goes with all the slots that it opens, but not with all that there are', async () => {
    const at = area();
    const again = { passphrase: old, newPassphrase: old, iterations: 1000 };
    expect(await addLuksKey(at, again)).toBe(1);
    const before = at.bytes.slice();
    expect(await codeOf(removeLuksKey(at, { passphrase: old }))).toBe('INVALID_ARGUMENT');
    expect(at.bytes).toEqual(before);
    expect(await codeOf(removeLuksKey(at, { passphrase: other }))).toBe('WRONG_SECRET');
    await add(at);
    expect(await removeLuksKey(at, { passphrase: old })).toEqual([0, 1]);
    expect(await opens(at, old)).toBe(false);
    expect(await opens(at, other)).toBe(true);
  });

  it('[LUKS-KEY-008] what is removed is gone, whoever marks the slot as used again', async () => {
    const at = area();
    await add(at);
    const before = at.bytes.slice(0, luksHeadBytes);
    expect(await removeLuksKey(at, { passphrase: old })).toEqual([0]);
    expect(await opens(at, old)).toBe(false);
    expect(await opens(at, other)).toBe(true);
    expect(decodeLuksHeader(at.bytes).slots[0]).toMatchObject({ active: false, salt: new Uint8Array(32) });
    at.bytes.set(before);
    expect(await opens(at, old)).toBe(false);
  });

  it.each([1, 6, 7])(
    '[LUKS-KEY-007, LUKS-KEY-008] a crash while slot %i comes and goes leaves the others, and it whole or unused',
    async (slot) => {
      const at = area();
      await add(at, slot);
      const added = at.log.splice(0);
      await removeLuksKey(at, { slot });
      for (const state of crashStates(fresh, added)) {
        const crashed = areaOver(state);
        expect(await opens(crashed, old)).toBe(true);
        // In use only with all of it there.
        const { active } = decodeLuksHeader(state, { lengthBytes: state.length }).slots[slot]!;
        expect(await opens(crashed, other)).toBe(active);
      }
      for (const state of crashStates(apply(fresh, added), at.log))
        expect(await opens(areaOver(state), old)).toBe(true);
      // Between the two steps of removing it is lost already.
      const halfway = apply(apply(fresh, added), at.log.slice(0, at.log.indexOf('flush')));
      expect(await opens(areaOver(halfway), other)).toBe(false);
    },
  );
});

type Log = MemoryArea['log'];

function apply(bytes: Uint8Array, log: Log): Uint8Array {
  const result = bytes.slice();
  for (const entry of log) if (entry !== 'flush') result.set(entry[1], entry[0]);
  return result;
}

/**
 * What a crash may leave of writes between two flushes: each of the sectors that belong to the head, kept or lost; of key
 * material, all, none, or the first half.
 */
function crashStates(bytes: Uint8Array, log: Log): Uint8Array[] {
  const states: Uint8Array[] = [];
  let base: Uint8Array = bytes.slice();
  let pending: Log = [];
  for (const entry of [...log, 'flush' as const]) {
    if (entry !== 'flush') {
      pending.push(entry);
      continue;
    }
    const pieces = pending.flatMap((one) => (one === 'flush' ? [] : sectorsOf(one)));
    for (let kept = 0; kept < 2 ** pieces.length; kept++) {
      states.push(
        apply(
          base,
          pieces.filter((_, index) => (kept & (1 << index)) !== 0),
        ),
      );
    }
    base = apply(base, pending);
    pending = [];
  }
  return states;
}

function sectorsOf([at, bytes]: readonly [number, Uint8Array]): (readonly [number, Uint8Array])[] {
  if (at >= 4096)
    return [
      [at, bytes.subarray(0, bytes.length / 2)],
      [at + bytes.length / 2, bytes.subarray(bytes.length / 2)],
    ];
  const cut = 512 - at;
  if (cut <= 0 || cut >= bytes.length) return [[at, bytes]];
  return [
    [at, bytes.subarray(0, cut)],
    [512, bytes.subarray(cut)],
  ];
}
