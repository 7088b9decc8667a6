/**
 * Which format a file is of. qcow2 and raw are read and written, the foreign ones read; the others are recognised so that they are never
 * taken for raw disks, which is what everything without a mark is.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { readPadded } from '@qcow2/block-device';
import { type ForeignFormat, looksLikeDescriptor } from '@qcow2/foreign';
import { CommandFailure } from './failures.ts';

/** Formats that images are made in and written to. */
export type WritableFormat = 'qcow2' | 'raw';
export type ServedFormat = WritableFormat | ForeignFormat;

const foreignFormats: readonly string[] = ['vdi', 'vpc', 'vmdk', 'vhdx'] satisfies ForeignFormat[];

interface FormatMark {
  readonly format: string;
  readonly at: number;
  readonly bytes: readonly number[];
}

const ascii = (text: string): number[] => [...text].map((letter) => letter.charCodeAt(0));

/** Bytes that tell formats apart; the first that matches counts. */
const marks: readonly FormatMark[] = [
  { format: 'qcow', at: 0, bytes: [...ascii('QFI'), 0xfb, 0, 0, 0, 1] },
  { format: 'qcow2', at: 0, bytes: [...ascii('QFI'), 0xfb] },
  { format: 'qed', at: 0, bytes: [...ascii('QED'), 0] },
  { format: 'vmdk', at: 0, bytes: ascii('KDMV') },
  { format: 'vmdk', at: 0, bytes: ascii('COWD') },
  { format: 'vhdx', at: 0, bytes: ascii('vhdxfile') },
  { format: 'vpc', at: 0, bytes: ascii('conectix') },
  { format: 'vdi', at: 64, bytes: [0x7f, 0x10, 0xda, 0xbe] },
  { format: 'luks', at: 0, bytes: [...ascii('LUKS'), 0xba, 0xbe] },
  { format: 'parallels', at: 0, bytes: ascii('WithoutFreeSpace') },
  { format: 'parallels', at: 0, bytes: ascii('WithouFreSpacExt') },
];

const probedBytes = 512;

/** The format that the file's first bytes show; `raw` where they show none. */
export async function probeFormat(device: BlockDevice): Promise<string> {
  const head = new Uint8Array(probedBytes);
  await readPadded(device, 0, head);
  const mark = marks.find(({ at, bytes }) => bytes.every((byte, index) => head[at + index] === byte));
  if (mark !== undefined) return mark.format;
  return looksLikeDescriptor(head) ? 'vmdk' : 'raw';
}

const knownFormats = new Set(marks.map((mark) => mark.format));

/** @throws CommandFailure for a format that is unknown, or known and not served */
export function servedFormat(format: string): ServedFormat {
  if (format === 'qcow2' || format === 'raw' || isForeign(format)) return format;
  throw new CommandFailure(
    knownFormats.has(format) ? `Image format '${format}' is not supported` : `Unknown driver '${format}'`,
  );
}

/** Of another family than qcow2 and raw: such images are read, and never written. */
export function isForeign(format: string): format is ForeignFormat {
  return foreignFormats.includes(format);
}

/** Whether QEMU knows a format of this name; what is served is fewer. */
export function isFormatName(format: string): boolean {
  return format === 'raw' || knownFormats.has(format);
}
