/**
 * Damage for tests of recovery: bits, sectors and tables of the mapping, the refcounts and the header; the end of the file cut off; sectors
 * that can not be read. All of it is such that evidence is left: what changes one sound state of an image into another (the bit "reads as zeros", bits of
 * sub-clusters, another size of the disk, guest bytes) nobody can see, and is left out.
 */
import { MemoryDevice } from '@qcow2/block-device';
import { walkImage } from '@qcow2/conformance';
import { StorageError } from '@qcow2/spec';
import type { Random } from './random.ts';

const sectorBytes = 512;

/** Offsets and lengths of header fields whose loss leaves evidence. */
const fields: readonly (readonly [string, number, number])[] = [
  ['magic', 0, 4],
  ['version', 4, 4],
  ['clusterBits', 20, 4],
  ['l1Entries', 36, 4],
  ['l1Offset', 40, 8],
  ['refcountTableOffset', 48, 8],
  ['refcountTableClusters', 56, 4],
  ['snapshotsOffset', 64, 8],
  ['incompatibleFeatures', 72, 8],
  ['refcountOrder', 96, 4],
  ['headerLength', 100, 4],
];

export class RecoveryDamage {
  bytes: Uint8Array;
  readonly unreadable = new Set<number>();
  readonly done: string[] = [];
  readonly #walk: ReturnType<typeof walkImage>;
  readonly #rng: Random;

  constructor(sound: Uint8Array, rng: Random) {
    this.bytes = sound.slice();
    this.#walk = walkImage(this.bytes);
    this.#rng = rng;
  }

  damage(count: number): void {
    const kinds: readonly (readonly [string, () => void])[] = [
      [
        'a bit of an L2 entry',
        () => this.#bit(this.#l2Table(), this.#rng.between(1, 61), this.#isExtended ? 16 : 8),
      ],
      [
        'a bit of an L2 entry',
        () => this.#bit(this.#l2Table(), this.#rng.between(9, 40), this.#isExtended ? 16 : 8),
      ],
      ['zeros in an L2 table', () => this.#sector(this.#l2Table(), 'zeros')],
      ['noise in an L2 table', () => this.#sector(this.#l2Table(), 'noise')],
      ['a bit of an L1 entry', () => this.#bit(this.#l1(), this.#rng.between(9, 61), 8)],
      ['an L1 entry gone', () => this.#entryGone(this.#l1())],
      ['the L1 table gone', () => this.#l1().fill(0)],
      ['noise in the L1 table', () => this.#sector(this.#l1(), 'noise')],
      ['a header field gone', () => this.#field('zeros')],
      ['noise in a header field', () => this.#field('noise')],
      ['zeros in a refcount block', () => this.#sector(this.#refcountBlock(), 'zeros')],
      ['noise in a refcount block', () => this.#sector(this.#refcountBlock(), 'noise')],
      ['a bit of the refcount table', () => this.#bit(this.#refcountTable(), this.#rng.between(9, 40), 8)],
      ['the refcount table gone', () => this.#refcountTable().fill(0)],
      ['the end of the file', () => this.#cut()],
      ['sectors that can not be read', () => this.#spoil()],
    ];
    for (let i = 0; i < count; i++) {
      const [name, damage] = this.#rng.pick(kinds);
      damage();
      this.done.push(name);
    }
  }

  get #isExtended(): boolean {
    return (this.#walk.header.incompatibleFeatures & 16n) !== 0n;
  }

  /** The file, of which some sectors can not be read. */
  device(): MemoryDevice {
    const { unreadable } = this;
    const device = MemoryDevice.fromBytes(this.bytes);
    const read = device.read.bind(device);
    device.read = (offset, into) => {
      for (
        let at = Math.floor(offset / sectorBytes) * sectorBytes;
        at < offset + into.length;
        at += sectorBytes
      ) {
        if (unreadable.has(at)) throw new StorageError('READ_FAILED', 'a bad sector', { hostOffset: at });
      }
      return read(offset, into);
    };
    return device;
  }

  #l2Table(): Uint8Array {
    const { at } = this.#rng.pick([...this.#walk.active.l2.values()]);
    return this.#cluster(at);
  }

  #cluster(at: number): Uint8Array {
    return this.bytes.subarray(at, at + 2 ** this.#walk.header.clusterBits);
  }

  #l1(): Uint8Array {
    const { l1Offset, l1Entries } = this.#walk.header;
    return this.bytes.subarray(l1Offset, l1Offset + l1Entries * 8);
  }

  #refcountBlock(): Uint8Array {
    const { at } = this.#rng.pick([...this.#walk.refcountBlocks.values()]);
    return this.#cluster(at);
  }

  #refcountTable(): Uint8Array {
    const used = Math.max(...this.#walk.refcountBlocks.keys()) + 1;
    return this.#cluster(this.#walk.header.refcountTableOffset).subarray(0, used * 8);
  }

  /** Of an entry that is there, if there is any. */
  #bit(table: Uint8Array, bit: number, entryBytes: number): void {
    const view = new DataView(table.buffer, table.byteOffset, table.length);
    const used = usedEntries(view, entryBytes);
    if (used.length === 0) return;
    const at = this.#rng.pick(used);
    view.setBigUint64(at, view.getBigUint64(at) ^ (1n << BigInt(bit)));
  }

  #entryGone(table: Uint8Array): void {
    const view = new DataView(table.buffer, table.byteOffset, table.length);
    const used = usedEntries(view, 8);
    if (used.length > 0) view.setBigUint64(this.#rng.pick(used), 0n);
  }

  #sector(table: Uint8Array, what: 'zeros' | 'noise'): void {
    const sectors = Math.max(1, Math.floor(table.length / sectorBytes));
    const from = this.#rng.between(0, Math.min(sectors, 4) - 1) * sectorBytes;
    const part = table.subarray(from, from + sectorBytes);
    part.set(what === 'zeros' ? new Uint8Array(part.length) : this.#rng.bytes(part.length));
  }

  #field(what: 'zeros' | 'noise'): void {
    const isOld = this.#walk.header.version === 2;
    const [, at, length] = this.#rng.pick(isOld ? fields.filter(([, from]) => from < 72) : fields);
    const features = at === 72;
    // Zeros in features are a sound image of another kind; noise in the low byte names encryption and data files.
    if (features) this.bytes.set([this.#rng.between(1, 255)], 76);
    else this.bytes.set(what === 'zeros' ? new Uint8Array(length) : this.#rng.bytes(length), at);
  }

  /** At a cluster's end: who sees that half of the last cluster is gone? */
  #cut(): void {
    const { clusterBits } = this.#walk.header;
    const clusters = Math.ceil(this.bytes.length / 2 ** clusterBits);
    const left = this.#rng.between(Math.ceil((clusters * 2) / 3), clusters - 1);
    this.bytes = this.bytes.slice(0, left * 2 ** clusterBits);
  }

  #spoil(): void {
    const first = this.#rng.between(1, Math.floor(this.bytes.length / sectorBytes) - 9);
    for (let i = 0; i < this.#rng.between(1, 8); i++) this.unreadable.add((first + i) * sectorBytes);
  }
}

function usedEntries(view: DataView, entryBytes: number): number[] {
  const used: number[] = [];
  for (let at = 0; at + 8 <= view.byteLength; at += entryBytes)
    if (view.getBigUint64(at) !== 0n) used.push(at);
  return used;
}
