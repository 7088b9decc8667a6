/**
 * Which format a file is of. qcow2 and raw are served; the others are recognised so that they are never taken
 * for raw disks, which is what everything without a mark is.
 */
import type { BlockDevice } from '@qcow2/block-device';
import { readPadded } from '@qcow2/block-device';
import { CommandFailure } from './failures.ts';

export type ServedFormat = 'qcow2' | 'raw';

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
  { format: 'vmdk', at: 0, bytes: ascii('# Disk DescriptorFile') },
  { format: 'vhdx', at: 0, bytes: ascii('vhdxfile') },
  { format: 'vpc', at: 0, bytes: ascii('conectix') },
  { format: 'vdi', at: 64, bytes: [0x7f, 0x10, 0xda, 0xbe] },
  { format: 'luks', at: 0, bytes: [...ascii('LUKS'), 0xba, 0xbe] },
  { format: 'parallels', at: 0, bytes: ascii('WithoutFreeSpace') },
  { format: 'parallels', at: 0, bytes: ascii('WithouFreSpacExt') },
];

const probedBytes = 128;

/** The format that the file's first bytes show; `raw` where they show none. */
export async function probeFormat(device: BlockDevice): Promise<string> {
  const head = new Uint8Array(probedBytes);
  await readPadded(device, 0, head);
  const mark = marks.find(({ at, bytes }) => bytes.every((byte, index) => head[at + index] === byte));
  return mark?.format ?? 'raw';
}

const knownFormats = new Set(marks.map((mark) => mark.format));

/** @throws CommandFailure for a format that is unknown, or known and not served */
export function servedFormat(format: string): ServedFormat {
  if (format === 'qcow2' || format === 'raw') return format;
  throw new CommandFailure(
    knownFormats.has(format) ? `Image format '${format}' is not supported` : `Unknown driver '${format}'`,
  );
}

/** Whether QEMU knows a format of this name; what is served is fewer. */
export function isFormatName(format: string): boolean {
  return format === 'raw' || knownFormats.has(format);
}
