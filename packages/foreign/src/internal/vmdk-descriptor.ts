/** The descriptor of a VMDK image: a text of lines, in a file of its own or within a sparse extent. */
import { FormatError, UnsupportedFeatureError } from '@qcow2/spec';

const document = 'VMware Virtual Disk Format 5.0, The Descriptor';

/** More is not read of a descriptor. */
export const mostDescriptorBytes = 1024 * 1024 - 1;
const mostExtents = 1024;
const sectorBytes = 512;

/** A line that says of which file a part of the disk is. */
export interface ExtentLine {
  readonly sizeBytes: number;
  readonly type: 'FLAT' | 'VMFS' | 'SPARSE';
  /** As it stands there. */
  readonly name: string;
  /** Where in a flat file the part begins. */
  readonly startBytes: number;
}

export interface VmdkDescriptor {
  readonly createType: string | undefined;
  readonly cid: number;
  readonly parentCid: number;
  /** What the image is a difference to. */
  readonly parentName: string | undefined;
  readonly text: string;
}

export const noParent = 0xffffffff;

export function decodeDescriptor(bytes: Uint8Array): VmdkDescriptor {
  const end = bytes.indexOf(0);
  const text = new TextDecoder().decode(end < 0 ? bytes : bytes.subarray(0, end));
  return {
    createType: quoted(text, 'createType'),
    cid: contentId(text, 'CID'),
    parentCid: contentId(text, 'parentCID'),
    parentName: quoted(text, 'parentFileNameHint'),
    text,
  };
}

function quoted(text: string, key: string): string | undefined {
  const start = text.indexOf(`${key}="`);
  if (start < 0) return undefined;
  const from = start + key.length + 2;
  const end = text.indexOf('"', from);
  return end < 0 ? undefined : text.slice(from, end);
}

function contentId(text: string, key: string): number {
  const start = text.indexOf(`${key}=`);
  const digits =
    start < 0 ? null : /^[0-9a-f]{1,8}/i.exec(text.slice(start + key.length + 1, start + key.length + 9));
  return digits === null ? noParent : Number.parseInt(digits[0], 16);
}

const servedTypes = new Set(['FLAT', 'VMFS', 'SPARSE']);
const otherTypes = new Set(['VMFSSPARSE', 'SESPARSE', 'ZERO', 'VMFSRDM', 'VMFSRAW']);

/**
 * The extents, in the order of the disk.
 * @throws BAD_FIELD for a line that is none; UNSUPPORTED_FEATURE for extents of other types, and those that are not to be read and written:
 *   to leave one out would move all that follows
 */
export function extentLines({ text }: VmdkDescriptor): ExtentLine[] {
  const lines: ExtentLine[] = [];
  for (const line of text.split('\n')) {
    const words = /^\s*(RW|RDONLY|NOACCESS)\s+(\d+)\s+(\S+)(.*)$/.exec(line.replace(/\r$/, ''));
    if (words === null) continue;
    const [, access = '', sectors = '', type = '', rest = ''] = words;
    if (!servedTypes.has(type) && !otherTypes.has(type)) continue;
    if (access !== 'RW' || otherTypes.has(type)) {
      throw new UnsupportedFeatureError(
        'UNSUPPORTED_FEATURE',
        `VMDK extents '${access} … ${type}' are not supported`,
        {
          field: 'extent',
          value: shown(line),
          clause: document,
        },
      );
    }
    lines.push(extentOf(line, type as ExtentLine['type'], sectors, rest));
    if (lines.length > mostExtents) throw badLine('LIMIT_EXCEEDED', 'more extents than are served', line);
  }
  return lines;
}

function extentOf(line: string, type: ExtentLine['type'], sectors: string, rest: string): ExtentLine {
  const named = /^\s*"([^"]{1,511})"\s*(\d+)?\s*$/.exec(rest);
  const startText = named?.[2];
  const isRight =
    type === 'FLAT' ? startText !== undefined : startText === undefined || Number(startText) === 0;
  if (named === null || !isRight) throw badLine('BAD_FIELD', 'Invalid extent line', line);
  const sizeBytes = Number(sectors) * sectorBytes;
  const startBytes = Number(startText ?? 0) * sectorBytes;
  if (sizeBytes === 0) throw badLine('BAD_FIELD', 'Invalid extent line', line);
  if (!Number.isSafeInteger(sizeBytes + startBytes)) {
    throw badLine('OFFSET_TOO_LARGE', 'an extent beyond 2^53 - 1', line);
  }
  return { sizeBytes, type, name: named[1]!, startBytes };
}

function badLine(
  code: 'BAD_FIELD' | 'LIMIT_EXCEEDED' | 'OFFSET_TOO_LARGE',
  problem: string,
  line: string,
): FormatError {
  return new FormatError(code, `VMDK descriptor: ${problem}`, {
    field: 'extent',
    value: shown(line),
    clause: document,
  });
}

function shown(line: string): string {
  return line.trim().slice(0, 200);
}

/** Whether a text could be one: nothing but comments and empty lines before the line of the version. */
export function looksLikeDescriptor(head: Uint8Array): boolean {
  const text = String.fromCharCode(...head);
  return /^(?:#[^\n]*\n| *\r?\n)*version=[123]\r?\n/.test(text);
}
