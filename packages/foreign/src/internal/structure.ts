/**
 * A structure of a foreign format: bytes of a file, with the place where they stand and the document that says what they mean. Every
 * number comes out of it checked to be one that is handled, and every error that it makes names field, value, host offset and document.
 */
import { type BlockDevice, type Task, wait } from '@qcow2/block-device';
import { type ErrorContext, FormatError, UnsupportedFeatureError } from '@qcow2/spec';

export interface StructureShape {
  /** What it is called in messages. */
  readonly name: string;
  /** The document that is the law on it; stands in errors as their clause. */
  readonly document: string;
  readonly littleEndian: boolean;
}

type FormatCode = FormatError['code'];

export class Structure {
  readonly bytes: Uint8Array;
  readonly hostOffset: number;
  readonly #shape: StructureShape;
  readonly #view: DataView;

  /** The bytes are the structure's from then on. */
  constructor(bytes: Uint8Array, hostOffset: number, shape: StructureShape) {
    this.bytes = bytes;
    this.hostOffset = hostOffset;
    this.#shape = shape;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  }

  u16(at: number): number {
    return this.#view.getUint16(at, this.#shape.littleEndian);
  }

  u32(at: number): number {
    return this.#view.getUint32(at, this.#shape.littleEndian);
  }

  /** @throws OFFSET_TOO_LARGE */
  u64(field: string, at: number): number {
    const value = this.big64(at);
    if (value <= BigInt(Number.MAX_SAFE_INTEGER)) return Number(value);
    throw this.bad('OFFSET_TOO_LARGE', field, at, value, 'is beyond 2^53 - 1, which is not handled');
  }

  big64(at: number): bigint {
    return this.#view.getBigUint64(at, this.#shape.littleEndian);
  }

  /** Bytes as text, each one letter. */
  ascii(at: number, lengthBytes: number): string {
    return String.fromCharCode(...this.bytes.subarray(at, at + lengthBytes));
  }

  isZero(at: number, lengthBytes: number): boolean {
    return this.bytes.subarray(at, at + lengthBytes).every((byte) => byte === 0);
  }

  /** An error about a field of this structure. @param problem as it follows the structure's name */
  bad(
    code: FormatCode,
    field: string,
    at: number,
    value: number | bigint | string,
    problem: string,
  ): FormatError {
    return new FormatError(code, `${this.#shape.name}: ${problem}`, this.#place(field, at, value));
  }

  /** What is legal, and not served here. */
  unserved(
    feature: string,
    field: string,
    at: number,
    value: number | bigint | string,
  ): UnsupportedFeatureError {
    const message = `${this.#shape.name}: ${feature} not supported`;
    return new UnsupportedFeatureError('UNSUPPORTED_FEATURE', message, this.#place(field, at, value));
  }

  #place(field: string, at: number, value: number | bigint | string): ErrorContext {
    return { field, value, hostOffset: this.hostOffset + at, clause: this.#shape.document };
  }
}

/**
 * Load a structure of a fixed size.
 * @throws TRUNCATED where the file ends before it does; what the device throws
 */
export function* loadStructure(
  file: BlockDevice,
  hostOffset: number,
  lengthBytes: number,
  shape: StructureShape,
): Task<Structure> {
  if (hostOffset > file.sizeBytes - lengthBytes) {
    throw new FormatError('TRUNCATED', `${shape.name}: the file ends before it`, {
      hostOffset,
      lengthBytes,
      clause: shape.document,
    });
  }
  const bytes = new Uint8Array(lengthBytes);
  yield* wait(file.read(hostOffset, bytes));
  return new Structure(bytes, hostOffset, shape);
}
