/**
 * A toy that the lab is tried on: a few guest sectors, written through a log. Small enough to be seen to be
 * right, and able to be wrong in the classic ways, one at a time.
 *
 * Device: sector 0 is the superblock (life number), then the guest's sectors at home, then the log. A flush
 * appends one record (a head sector with life, sequence, guest sector numbers and a checksum, then the
 * sectors) and flushes. When the log is full, and at close, everything goes home, is flushed, and only then
 * the superblock starts a new life with an empty log, and is flushed.
 */
import type { BlockDevice, DeviceCapabilities, Extent, WriteOptions } from '@qcow2/block-device';
import { FormatError } from '@qcow2/spec';
import type { OpenSystem, OpenSystemOptions, SystemUnderTest } from '../src/system-under-test.ts';
import { stampedContent } from '../src/workload.ts';

export type ToyBug =
  | 'no flush after the record'
  | 'no checksum'
  | 'no flush before the superblock'
  | 'no flush after the superblock'
  | 'no life number'
  | 'recovery resets the log first';

const sectorBytes = 512;
const guestSectors = 8;
const logStart = 1 + guestSectors;
const logSectors = 10;
const magic = 0x746f7931;

export function toyLog(bug?: ToyBug): SystemUnderTest {
  return {
    name: bug === undefined ? 'toy' : `toy-${bug.replaceAll(' ', '-')}`,
    guestBytes: guestSectors * sectorBytes,
    clusterBytes: 2 * sectorBytes,
    letters: 'swxozdfuck',
    leaksAreFailures: true,
    create: async (device) => {
      await device.write(0, new Uint8Array((logStart + logSectors) * sectorBytes));
      await device.write(0, superblock(1));
      await device.write(sectorBytes, stampedContent(1, guestSectors * sectorBytes));
      await device.flush();
    },
    initialContent: () => stampedContent(1, guestSectors * sectorBytes),
    open: async (device, options) => {
      const toy = new ToyLog(device, options, bug);
      await toy.recover();
      return toy;
    },
    check: async (device) => {
      const head = new Uint8Array(sectorBytes);
      await device.read(0, head);
      const errors = readSuperblock(head) === undefined ? 1 : 0;
      return { errors, leaks: 0, findings: errors === 0 ? [] : ['no superblock'] };
    },
  };
}

class ToyLog implements OpenSystem, BlockDevice {
  readonly capabilities: DeviceCapabilities = {
    write: true,
    growable: false,
    resize: false,
    discard: true,
    writeZeroes: true,
    fua: true,
    extents: false,
    preferredBlockBytes: 1,
  };
  readonly sizeBytes = guestSectors * sectorBytes;
  readonly #device: BlockDevice;
  readonly #readOnly: boolean;
  readonly #bug: ToyBug | undefined;
  /** What the log holds and home does not yet. */
  readonly #logged = new Map<number, Uint8Array>();
  /** Written since the last record. */
  readonly #dirty = new Map<number, Uint8Array>();
  #life = 0;
  #sequence = 0;
  #next = 0;
  /** One operation at a time. */
  #tail: Promise<void> = Promise.resolve();

  constructor(device: BlockDevice, options: OpenSystemOptions, bug: ToyBug | undefined) {
    this.#device = device;
    this.#readOnly = options.readOnly;
    this.#bug = bug;
  }

  get guest(): BlockDevice {
    return this;
  }

  async recover(): Promise<void> {
    const head = new Uint8Array(sectorBytes);
    await this.#device.read(0, head);
    const life = readSuperblock(head);
    if (life === undefined) throw new FormatError('BAD_CHECKSUM', 'the superblock is damaged');
    this.#life = life;
    while (await this.#replayRecord());
    if (this.#readOnly || this.#next === 0) return;
    if (this.#bug === 'recovery resets the log first') await this.#startLife();
    await this.#goHome();
  }

  async read(offset: number, into: Uint8Array): Promise<void> {
    await this.#alone(() => this.#load(offset, into));
  }

  async write(offset: number, bytes: Uint8Array, options?: WriteOptions): Promise<void> {
    await this.#alone(async () => {
      const first = Math.floor(offset / sectorBytes);
      const last = Math.floor((offset + bytes.length - 1) / sectorBytes);
      const range = new Uint8Array((last - first + 1) * sectorBytes);
      await this.#load(first * sectorBytes, range);
      range.set(bytes, offset - first * sectorBytes);
      for (let sector = first; sector <= last; sector++) {
        const start = (sector - first) * sectorBytes;
        this.#dirty.set(sector, range.slice(start, start + sectorBytes));
      }
      if (options?.fua) await this.#commit();
    });
  }

  async flush(): Promise<void> {
    await this.#alone(() => this.#commit());
  }

  async discard(): Promise<void> {}

  async writeZeroes(offset: number, lengthBytes: number, options?: WriteOptions): Promise<void> {
    await this.write(offset, new Uint8Array(lengthBytes), options);
  }

  extents(offset: number, lengthBytes: number): readonly Extent[] {
    return [{ offset, lengthBytes, kind: 'data' }];
  }

  resize(): void {}
  settle(): void {}

  rest(): Promise<void> {
    return this.flush();
  }

  abandon(): void {}

  async close(): Promise<void> {
    if (this.#readOnly) return;
    await this.#alone(async () => {
      await this.#commit();
      await this.#goHome();
    });
  }

  async #alone(body: () => Promise<void>): Promise<void> {
    const turn = this.#tail.then(body);
    this.#tail = turn.catch(() => undefined);
    await turn;
  }

  async #load(offset: number, into: Uint8Array): Promise<void> {
    const all = new Uint8Array(this.sizeBytes);
    await this.#device.read(sectorBytes, all);
    for (const [sector, bytes] of [...this.#logged, ...this.#dirty]) all.set(bytes, sector * sectorBytes);
    into.set(all.subarray(offset, offset + into.length));
  }

  async #commit(): Promise<void> {
    if (this.#dirty.size === 0) return;
    const taken = [...this.#dirty];
    if (this.#next + 1 + taken.length > logSectors) await this.#goHome();
    const bytes = recordOf(this.#life, this.#sequence, taken);
    await this.#device.write((logStart + this.#next) * sectorBytes, bytes, { event: 'journal_append' });
    if (this.#bug !== 'no flush after the record') await this.#device.flush({ event: 'journal_flush' });
    this.#next += 1 + taken.length;
    this.#sequence++;
    for (const [sector, content] of taken) {
      this.#logged.set(sector, content);
    }
    this.#dirty.clear();
  }

  async #goHome(): Promise<void> {
    for (const [sector, bytes] of this.#logged) {
      await this.#device.write((1 + sector) * sectorBytes, bytes, { event: 'journal_write_back' });
    }
    if (this.#bug !== 'no flush before the superblock') await this.#device.flush({ event: 'flush_data' });
    await this.#startLife();
    this.#logged.clear();
    this.#next = 0;
    this.#sequence = 0;
  }

  async #startLife(): Promise<void> {
    this.#life++;
    await this.#device.write(0, superblock(this.#life), { event: 'journal_slot' });
    if (this.#bug !== 'no flush after the superblock') await this.#device.flush({ event: 'flush_metadata' });
  }

  async #replayRecord(): Promise<boolean> {
    if (this.#next >= logSectors) return false;
    const log = new Uint8Array((logSectors - this.#next) * sectorBytes);
    await this.#device.read((logStart + this.#next) * sectorBytes, log);
    const view = new DataView(log.buffer);
    const count = view.getUint32(12);
    const lifeFits = view.getUint32(4) === this.#life || this.#bug === 'no life number';
    if (view.getUint32(0) !== magic || !lifeFits || view.getUint32(8) !== this.#sequence) return false;
    if (count === 0 || (1 + count) * sectorBytes > log.length) return false;
    const sectors = Array.from({ length: count }, (_, index) => view.getUint32(20 + 4 * index));
    const stored = view.getUint32(16);
    const record = log.subarray(0, (1 + count) * sectorBytes);
    view.setUint32(16, 0);
    if (checksum(record) !== stored && this.#bug !== 'no checksum') return false;
    for (const [index, sector] of sectors.entries()) {
      const start = (1 + index) * sectorBytes;
      this.#logged.set(sector, record.slice(start, start + sectorBytes));
    }
    this.#next += 1 + count;
    this.#sequence++;
    return true;
  }
}

function recordOf(life: number, sequence: number, content: [number, Uint8Array][]): Uint8Array {
  const record = new Uint8Array((1 + content.length) * sectorBytes);
  const view = new DataView(record.buffer);
  view.setUint32(0, magic);
  view.setUint32(4, life);
  view.setUint32(8, sequence);
  view.setUint32(12, content.length);
  for (const [index, [sector, bytes]] of content.entries()) {
    view.setUint32(20 + 4 * index, sector);
    record.set(bytes, (1 + index) * sectorBytes);
  }
  view.setUint32(16, checksum(record));
  return record;
}

function superblock(life: number): Uint8Array {
  const bytes = new Uint8Array(sectorBytes);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, magic);
  view.setUint32(4, life);
  view.setUint32(8, checksum(bytes));
  return bytes;
}

function readSuperblock(bytes: Uint8Array): number | undefined {
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  const stored = view.getUint32(8);
  view.setUint32(8, 0);
  return view.getUint32(0) === magic && checksum(copy) === stored ? view.getUint32(4) : undefined;
}

/** Any good mixture will do: the lab tears sectors, it does not forge checksums. */
function checksum(bytes: Uint8Array): number {
  let sum = 1;
  for (const byte of bytes) sum = Math.imul(sum ^ byte, 0x01000193);
  return sum >>> 0;
}
