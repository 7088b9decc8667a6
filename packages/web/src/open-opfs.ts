/**
 * Opening a file of the origin private file system for synchronous access: what a worker gets, and only one at a
 * time. The browser keeps two of them apart, as locks do elsewhere.
 *
 * The two interfaces are as much of the platform's as is used; the compiler's library has them for workers only.
 */
import { StorageError } from '@qcow2/spec';
import { OpfsDevice } from './opfs-device.ts';

/** As much of `FileSystemSyncAccessHandle` as is used. */
export interface SyncAccess {
  read(into: Uint8Array<ArrayBuffer>, options: { readonly at: number }): number;
  write(bytes: Uint8Array<ArrayBuffer>, options: { readonly at: number }): number;
  truncate(sizeBytes: number): void;
  getSize(): number;
  flush(): void;
  close(): void;
}

/** As much of `FileSystemFileHandle` as is used. */
export interface OpfsFile {
  readonly name: string;
  createSyncAccessHandle(): Promise<SyncAccess>;
}

export interface OpfsOptions {
  /** Refuse every change with READ_ONLY. The browser keeps others out all the same. */
  readonly readOnly?: boolean;
}

/**
 * Open a file as a BlockDevice, in a worker. The file stays the caller's alone until the device is closed.
 * @throws IN_USE where it is open already; NOT_FOUND, ACCESS_DENIED, READ_FAILED
 */
export async function openOpfs(file: OpfsFile, options: OpfsOptions = {}): Promise<OpfsDevice> {
  let access: SyncAccess;
  try {
    access = await file.createSyncAccessHandle();
  } catch (error) {
    const name = error instanceof DOMException ? error.name : '';
    const message = `${file.name} can not be opened: ${error instanceof Error ? error.message : String(error)}`;
    throw new StorageError(openCodes[name] ?? 'READ_FAILED', message, { path: file.name }, error);
  }
  return new OpfsDevice(file.name, access, options.readOnly ?? false);
}

const openCodes: Readonly<Record<string, 'IN_USE' | 'NOT_FOUND' | 'ACCESS_DENIED'>> = {
  NoModificationAllowedError: 'IN_USE',
  NotFoundError: 'NOT_FOUND',
  NotAllowedError: 'ACCESS_DENIED',
};
