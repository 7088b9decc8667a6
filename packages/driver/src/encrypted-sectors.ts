/**
 * Guest data through a cipher: whole sectors of 512 bytes, whatever a request asks for.
 *
 * Where a write has part of a sector, the rest is read, and written with it. A sector is kept or lost whole in a crash, so its
 * other bytes are there either way. Who writes holds the write lock, so nobody else changes them meanwhile.
 */
import { isPromise, type Task } from '@qcow2/block-device';
import { cipherSectorBytes, type GuestCipher } from './encryption.ts';

/** Cipher text, by where it stands. */
export interface SectorStore {
  read(hostOffset: number, into: Uint8Array): void | Promise<void>;
  write(hostOffset: number, bytes: Uint8Array): void | Promise<void>;
}

export class EncryptedSectors {
  readonly #cipher: GuestCipher;

  constructor(cipher: GuestCipher) {
    this.#cipher = cipher;
  }

  /** Both offsets have the same place in a sector. */
  *read(store: SectorStore, hostOffset: number, guestOffset: number, into: Uint8Array): Task<void> {
    const head = hostOffset % cipherSectorBytes;
    const lengthBytes = Math.ceil((head + into.length) / cipherSectorBytes) * cipherSectorBytes;
    const whole = lengthBytes === into.length;
    const sectors = whole ? into : new Uint8Array(lengthBytes);
    const done = store.read(hostOffset - head, sectors);
    if (isPromise(done)) yield done;
    this.#cipher.decrypt(sectors, this.#sectorOf(hostOffset - head, guestOffset - head));
    if (whole) return;
    into.set(sectors.subarray(head, head + into.length));
    sectors.fill(0);
  }

  /** The caller's bytes are left as they are. */
  *write(store: SectorStore, hostOffset: number, guestOffset: number, bytes: Uint8Array): Task<void> {
    const head = hostOffset % cipherSectorBytes;
    const end = head + bytes.length;
    const sectors = new Uint8Array(Math.ceil(end / cipherSectorBytes) * cipherSectorBytes);
    const last = sectors.length - cipherSectorBytes;
    const host = hostOffset - head;
    const guest = guestOffset - head;
    if (head > 0) yield* this.read(store, host, guest, sectors.subarray(0, cipherSectorBytes));
    if (end < sectors.length && (head === 0 || last > 0)) {
      yield* this.read(store, host + last, guest + last, sectors.subarray(last));
    }
    sectors.set(bytes, head);
    this.#cipher.encrypt(sectors, this.#sectorOf(host, guest));
    const done = store.write(host, sectors);
    if (isPromise(done)) yield done;
  }

  #sectorOf(hostOffset: number, guestOffset: number): number {
    return (this.#cipher.usesHostOffset ? hostOffset : guestOffset) / cipherSectorBytes;
  }
}
