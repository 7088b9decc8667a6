/** The forms that `read` and `write` of a FileHandle take their arguments in, made into one. */
import { StateError } from '@qcow2/spec';

/** Undefined, null and -1: where the handle stands. */
export type HandlePosition = number | bigint | null | undefined;

export interface ReadArguments {
  readonly offset?: number | null | undefined;
  readonly length?: number | null | undefined;
  readonly position?: HandlePosition;
}

type Listed = [
  offset?: number | null | undefined,
  length?: number | null | undefined,
  position?: HandlePosition,
];
export type ReadForm =
  | [options?: (ReadArguments & { readonly buffer?: NodeJS.ArrayBufferView | undefined }) | undefined]
  | [buffer: NodeJS.ArrayBufferView, ...Listed]
  | [buffer: NodeJS.ArrayBufferView, options?: ReadArguments | undefined];
export type WriteForm =
  | [text: string, position?: HandlePosition, encoding?: BufferEncoding | null | undefined]
  | [buffer: NodeJS.ArrayBufferView, ...Listed]
  | [buffer: NodeJS.ArrayBufferView, options?: ReadArguments | undefined];

export interface Transfer<T> {
  /** What the caller gave, to be given back. */
  readonly buffer: T;
  /** The part of it that is read into or written. */
  readonly bytes: Uint8Array;
  /** Undefined: where the handle stands. */
  readonly position: number | undefined;
}

/** Node's own, where no buffer is given. */
const defaultBufferBytes = 16 * 1024;

/** @throws INVALID_ARGUMENT */
export function parseRead(form: ReadForm): Transfer<NodeJS.ArrayBufferView> {
  const [first, ...rest] = form;
  if (ArrayBuffer.isView(first)) return parseBuffer(first, rest as Listed | [(ReadArguments | undefined)?]);
  const { buffer = Buffer.alloc(defaultBufferBytes), ...options } = first ?? {};
  if (!ArrayBuffer.isView(buffer)) throw refused('buffer', typeof buffer);
  return parseBuffer(buffer, [options]);
}

/** @throws INVALID_ARGUMENT */
export function parseWrite(form: WriteForm): Transfer<NodeJS.ArrayBufferView | string> {
  const [first, ...rest] = form;
  if (ArrayBuffer.isView(first)) return parseBuffer(first, rest as Listed | [(ReadArguments | undefined)?]);
  if (typeof first !== 'string') throw refused('buffer', typeof first);
  const [position, encoding] = rest as [HandlePosition?, (BufferEncoding | null)?];
  if (encoding && !Buffer.isEncoding(encoding)) throw refused('encoding', encoding);
  return { buffer: first, bytes: Buffer.from(first, encoding ?? 'utf8'), position: placeOf(position) };
}

function parseBuffer<T extends NodeJS.ArrayBufferView>(
  buffer: T,
  rest: Listed | [(ReadArguments | undefined)?],
): Transfer<T> {
  const [first] = rest;
  const [offset, length, position] =
    typeof first === 'object' && first !== null
      ? [first.offset, first.length, first.position]
      : (rest as Listed);
  const from = within('offset', offset ?? 0, buffer.byteLength);
  const lengthBytes = within('length', length ?? buffer.byteLength - from, buffer.byteLength - from);
  return {
    buffer,
    bytes: new Uint8Array(buffer.buffer, buffer.byteOffset + from, lengthBytes),
    position: placeOf(position),
  };
}

function placeOf(position: HandlePosition): number | undefined {
  const at = typeof position === 'bigint' ? Number(position) : (position ?? -1);
  if (at === -1) return undefined;
  return within('position', at, Number.MAX_SAFE_INTEGER);
}

function within(field: string, value: number, limit: number): number {
  if (Number.isSafeInteger(value) && value >= 0 && value <= limit) return value;
  throw refused(field, value);
}

function refused(field: string, value: number | string): StateError {
  return new StateError('INVALID_ARGUMENT', `${value} will not do for ${field}`, { field, value });
}
