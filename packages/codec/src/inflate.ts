/**
 * Deflate streams (RFC 1951) to bytes, in plain TypeScript: the way to read compressed clusters where no faster one is at
 * hand, as in a browser, whose own decompression stream refuses the bytes that stand behind a stream's end.
 *
 * The output is a buffer of the caller's that a stream has to fill to the last byte, so nothing is allocated by what a
 * stream says. Work is bounded by the input and the output: the table of a block has 512 places however long its codes
 * are, and each block takes some bits of the input.
 */
import { damagedCluster } from './compression-errors.ts';

const maxCodeBits = 15;
/** Codes up to so many bits are looked up, longer ones are followed bit by bit. */
const tableBits = 9;
const endOfBlock = 256;

const lengthBases = [
  3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195,
  227, 258,
];
const lengthBits = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
const distanceBases = distanceTable();
/** In which order a block gives the lengths of the codes in which it gives lengths. */
const lengthOrder = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

/**
 * Decompress the stream at the beginning of `bytes` into `into`, which it has to fill exactly. Bytes behind the stream
 * mean nothing; a stream that is cut off when `into` is full is taken as whole.
 * @throws FormatError COMPRESSED_DAMAGED [CMP-008]
 */
export function inflate(bytes: Uint8Array, into: Uint8Array): void {
  new Inflation(bytes, into).run();
}

class Inflation {
  readonly #bytes: Uint8Array;
  readonly #into: Uint8Array;
  #read = 0;
  #written = 0;
  /** Bits that were read and not used, the next one lowest. */
  #held = 0;
  #heldBits = 0;
  /** Bits that were made up behind the input's end. */
  #madeUp = 0;

  constructor(bytes: Uint8Array, into: Uint8Array) {
    this.#bytes = bytes;
    this.#into = into;
  }

  run(): void {
    const isWhole = this.#blocks();
    if (this.#written === this.#into.length) return;
    const what = isWhole ? 'makes less than a cluster' : 'ends within its stream';
    throw damagedCluster(`compressed data ${what}`);
  }

  /** False where the input ended before the stream. */
  #blocks(): boolean {
    for (;;) {
      const last = this.#take(1) === 1;
      const type = this.#take(2);
      if (this.#isCut()) return false;
      if (type === 3) throw damagedCluster('a deflate block of a type that there is not');
      if (!(type === 0 ? this.#stored() : this.#coded(type))) return false;
      if (last) return true;
    }
  }

  #isCut(): boolean {
    return this.#madeUp > this.#heldBits;
  }

  #fill(count: number): void {
    while (this.#heldBits < count) {
      if (this.#read < this.#bytes.length) this.#held |= this.#bytes[this.#read++]! << this.#heldBits;
      else this.#madeUp += 8;
      this.#heldBits += 8;
    }
  }

  #drop(count: number): void {
    this.#held >>>= count;
    this.#heldBits -= count;
  }

  /** Up to 15 bits as a number. */
  #take(count: number): number {
    this.#fill(count);
    const value = this.#held & ((1 << count) - 1);
    this.#drop(count);
    return value;
  }

  /** False where the input ended. */
  #stored(): boolean {
    this.#drop(this.#heldBits % 8);
    const lengthBytes = this.#take(8) | (this.#take(8) << 8);
    const check = this.#take(8) | (this.#take(8) << 8);
    if (this.#isCut()) return false;
    if ((lengthBytes ^ check) !== 0xffff)
      throw damagedCluster('a stored block whose length does not match its check');
    // Two whole bytes at most were held, and four are taken: nothing is held any more.
    this.#refuseMore(lengthBytes);
    const present = Math.min(lengthBytes, this.#bytes.length - this.#read);
    this.#into.set(this.#bytes.subarray(this.#read, this.#read + present), this.#written);
    this.#read += present;
    this.#written += present;
    return present === lengthBytes;
  }

  #refuseMore(lengthBytes: number): void {
    if (this.#written + lengthBytes > this.#into.length) {
      throw damagedCluster('compressed data makes more than a cluster');
    }
  }

  #coded(type: number): boolean {
    const codes = type === 1 ? fixedCodes() : this.#dynamicCodes();
    if (codes === undefined) return false;
    const into = this.#into;
    for (;;) {
      const symbol = this.#symbol(codes.literals);
      if (this.#isCut()) return false;
      if (symbol < endOfBlock) {
        this.#refuseMore(1);
        into[this.#written++] = symbol;
        continue;
      }
      if (symbol === endOfBlock) return true;
      if (!this.#repeat(symbol - endOfBlock - 1, codes.distances)) return false;
    }
  }

  /** Bytes that stand further back once more; they may reach into what is being written. */
  #repeat(index: number, distances: HuffmanCode): boolean {
    if (index >= lengthBases.length) throw damagedCluster('a length that there is not');
    const lengthBytes = lengthBases[index]! + this.#take(lengthBits[index]!);
    const symbol = this.#symbol(distances);
    if (symbol >= distanceBases.length) throw damagedCluster('a distance that there is not');
    const distance = distanceBases[symbol]! + this.#take(distanceBits(symbol));
    if (this.#isCut()) return false;
    if (distance > this.#written) throw damagedCluster('compressed data refers to bytes before its first');
    this.#refuseMore(lengthBytes);
    const into = this.#into;
    const from = this.#written - distance;
    if (distance >= lengthBytes) into.copyWithin(this.#written, from, from + lengthBytes);
    else for (let i = 0; i < lengthBytes; i++) into[this.#written + i] = into[from + i]!;
    this.#written += lengthBytes;
    return true;
  }

  /** The next symbol of a code; any where the input has ended. */
  #symbol(code: HuffmanCode): number {
    this.#fill(maxCodeBits);
    const entry = code.table[this.#held & (2 ** tableBits - 1)]!;
    if (entry !== 0) {
      this.#drop(entry & 15);
      return entry >>> 4;
    }
    let word = 0;
    let first = 0;
    let index = 0;
    for (let bits = 1; bits <= maxCodeBits; bits++) {
      word |= (this.#held >>> (bits - 1)) & 1;
      const count = code.counts[bits]!;
      if (word - first < count) {
        this.#drop(bits);
        return code.symbols[index + word - first]!;
      }
      index += count;
      first = (first + count) << 1;
      word <<= 1;
    }
    if (this.#madeUp > 0) {
      // Made up bits need not be a code.
      this.#drop(this.#heldBits);
      return endOfBlock;
    }
    throw damagedCluster('bits that are no code of their block');
  }

  /** The codes that a block brings with it; undefined where the input ended. */
  #dynamicCodes(): BlockCodes | undefined {
    const literalCount = this.#take(5) + 257;
    const distanceCount = this.#take(5) + 1;
    const orderCount = this.#take(4) + 4;
    if (literalCount > 286 || distanceCount > 30) throw damagedCluster('a deflate block with too many codes');
    const lengths = new Uint8Array(lengthOrder.length);
    for (let i = 0; i < orderCount; i++) lengths[lengthOrder[i]!] = this.#take(3);
    if (this.#isCut()) return undefined;
    const all = this.#codeLengths(new HuffmanCode(lengths, false), literalCount + distanceCount);
    if (all === undefined) return undefined;
    if (all[endOfBlock] === 0) throw damagedCluster('a deflate block without a code for its end');
    const literals = new HuffmanCode(all.subarray(0, literalCount), true);
    return { literals, distances: new HuffmanCode(all.subarray(literalCount), true) };
  }

  #codeLengths(code: HuffmanCode, count: number): Uint8Array | undefined {
    const lengths = new Uint8Array(count);
    for (let i = 0; i < count; ) {
      const symbol = this.#symbol(code);
      if (this.#isCut()) return undefined;
      if (symbol < 16) {
        lengths[i++] = symbol;
        continue;
      }
      if (symbol === 16 && i === 0) throw damagedCluster('a deflate block repeats a length before the first');
      const value = symbol === 16 ? lengths[i - 1]! : 0;
      const times =
        symbol === 16 ? 3 + this.#take(2) : symbol === 17 ? 3 + this.#take(3) : 11 + this.#take(7);
      if (this.#isCut()) return undefined;
      if (i + times > count) throw damagedCluster('a deflate block with more lengths than codes');
      lengths.fill(value, i, i + times);
      i += times;
    }
    return lengths;
  }
}

interface BlockCodes {
  readonly literals: HuffmanCode;
  readonly distances: HuffmanCode;
}

/** A canonical Huffman code: short words in a table, by their bits in the order of the stream; all of them by length. */
class HuffmanCode {
  /** Symbol × 16 + length, at every place whose low bits are the word; 0: no short word. */
  readonly table = new Uint16Array(2 ** tableBits);
  /** Words of each length. */
  readonly counts = new Uint16Array(maxCodeBits + 1);
  /** In the order of their words. */
  readonly symbols: Uint16Array;

  /**
   * @param lengths of the words by symbol, 0: has none
   * @param mayBeSingle one word of one bit is enough
   * @throws COMPRESSED_DAMAGED for lengths that no code has
   */
  constructor(lengths: Uint8Array, mayBeSingle: boolean) {
    for (const length of lengths) this.counts[length]!++;
    this.counts[0] = 0;
    this.#refuseUneven(mayBeSingle);
    const starts = new Uint16Array(maxCodeBits + 2);
    const words = new Uint16Array(maxCodeBits + 2);
    for (let bits = 1; bits <= maxCodeBits; bits++) {
      starts[bits + 1] = starts[bits]! + this.counts[bits]!;
      words[bits + 1] = (words[bits]! + this.counts[bits]!) << 1;
    }
    this.symbols = new Uint16Array(starts[maxCodeBits + 1]!);
    for (const [symbol, length] of lengths.entries()) {
      if (length === 0) continue;
      this.symbols[starts[length]!++] = symbol;
      const word = words[length]!++;
      if (length > tableBits) continue;
      for (let at = reversed(word, length); at < this.table.length; at += 2 ** length) {
        this.table[at] = symbol * 16 + length;
      }
    }
  }

  #refuseUneven(mayBeSingle: boolean): void {
    let left = 1;
    let longest = 0;
    for (let bits = 1; bits <= maxCodeBits; bits++) {
      left = left * 2 - this.counts[bits]!;
      if (this.counts[bits]! > 0) longest = bits;
      if (left < 0) throw damagedCluster('a deflate block with more codes than there are');
    }
    // No word at all: whoever uses the code is refused then.
    const isAllowed = left === 0 || (mayBeSingle && longest <= 1);
    if (!isAllowed) throw damagedCluster('a deflate block whose codes leave some out');
  }
}

let fixed: BlockCodes | undefined;

/** The codes of blocks that bring none. */
function fixedCodes(): BlockCodes {
  if (fixed === undefined) {
    const lengths = new Uint8Array(288).fill(8);
    lengths.fill(9, 144, 256).fill(7, 256, 280);
    fixed = {
      literals: new HuffmanCode(lengths, false),
      distances: new HuffmanCode(new Uint8Array(32).fill(5), false),
    };
  }
  return fixed;
}

function reversed(word: number, bits: number): number {
  let result = 0;
  for (let i = 0; i < bits; i++) result |= ((word >>> i) & 1) << (bits - 1 - i);
  return result;
}

function distanceBits(symbol: number): number {
  return symbol < 4 ? 0 : (symbol >>> 1) - 1;
}

function distanceTable(): number[] {
  const bases: number[] = [];
  for (let symbol = 0, base = 1; symbol < 30; symbol++) {
    bases.push(base);
    base += 2 ** distanceBits(symbol);
  }
  return bases;
}
