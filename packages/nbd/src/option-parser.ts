/**
 * The client's half of the handshake out of a byte stream: first its flags, then options. Pure, like
 * `request-parser.ts`, and with the same promise about sizes: an option's data above the limit is skipped
 * as it comes, never stored.
 */
import { FormatError } from '@qcow2/spec';
import { limits, magic, wireBytes } from './protocol.ts';

export interface ClientOption {
  readonly type: number;
  /** undefined where it was longer than the limit */
  readonly data: Uint8Array | undefined;
}

export class OptionParser {
  /** `[start, end)` came and was not used yet: small, as one option's data is at most 64 KiB */
  #store = new Uint8Array(0);
  #start = 0;
  #end = 0;
  #skipBytes = 0;
  /** an option above the limit, whose data is being skipped */
  #skipped: ClientOption | undefined;

  push(piece: Uint8Array): void {
    let rest = piece;
    if (this.#skipBytes > 0) {
      const skipped = Math.min(rest.length, this.#skipBytes);
      this.#skipBytes -= skipped;
      rest = rest.subarray(skipped);
    }
    if (this.#store.length - this.#end < rest.length) this.#grow(rest.length);
    this.#store.set(rest, this.#end);
    this.#end += rest.length;
  }

  /** The client's flags, the first thing that it sends. */
  takeClientFlags(): number | undefined {
    const bytes = this.#take(wireBytes.clientFlags);
    return bytes === undefined ? undefined : viewOf(bytes).getUint32(0);
  }

  /**
   * The next whole option, or undefined when more bytes are needed.
   * @throws FormatError BAD_MAGIC: the stream is out of step
   */
  takeOption(): ClientOption | undefined {
    if (this.#skipped !== undefined) {
      if (this.#skipBytes > 0) return undefined;
      const option = this.#skipped;
      this.#skipped = undefined;
      return option;
    }
    if (this.#end - this.#start < wireBytes.optionHeader) return undefined;
    const view = viewOf(this.#store.subarray(this.#start));
    if (view.getUint32(0) !== magic.optionHigh || view.getUint32(4) !== magic.optionLow) {
      throw new FormatError('BAD_MAGIC', 'not an NBD option', {
        field: 'magic',
        value: view.getBigUint64(0),
      });
    }
    const type = view.getUint32(8);
    const lengthBytes = view.getUint32(12);
    if (lengthBytes > limits.optionBytes) {
      this.#start += wireBytes.optionHeader;
      this.#skipBytes = lengthBytes;
      this.#skipped = { type, data: undefined };
      this.push(this.takeRest());
      return this.takeOption();
    }
    const whole = this.#take(wireBytes.optionHeader + lengthBytes);
    return whole === undefined ? undefined : { type, data: whole.subarray(wireBytes.optionHeader) };
  }

  /** What came behind the option that ended the handshake: the first requests. */
  takeRest(): Uint8Array {
    const rest = this.#store.subarray(this.#start, this.#end);
    this.#start = this.#end;
    return rest;
  }

  #take(count: number): Uint8Array | undefined {
    if (this.#end - this.#start < count) return undefined;
    const start = this.#start;
    this.#start += count;
    return this.#store.subarray(start, start + count);
  }

  /** A larger store with what is unused. Bytes that were handed out stay where they are, unchanged. */
  #grow(moreBytes: number): void {
    const unused = this.#store.subarray(this.#start, this.#end);
    const grown = new Uint8Array(2 * (unused.length + moreBytes));
    grown.set(unused);
    this.#store = grown;
    this.#start = 0;
    this.#end = unused.length;
  }
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}
