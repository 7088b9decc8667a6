/**
 * How many bytes of array buffers the code under test asks for. The constructors that everybody uses are wrapped
 * while inputs run: a length taken from a damaged field shows here before the memory is gone.
 *
 * Copies (`slice`) are not counted: they are as large as what was there. Objects and maps are for the heap limit of
 * the thread (`worker.ts`).
 */
import { StateError } from '@qcow2/spec';

const native = { Uint8Array: globalThis.Uint8Array, ArrayBuffer: globalThis.ArrayBuffer };

export interface AllocationLimits {
  /** The largest single buffer. */
  readonly oneBytes: number;
  /** All of one run together, whether or not they live at the same time. */
  readonly allBytes: number;
}

export class AllocationGuard {
  /** Since `arm`. */
  allocatedBytes = 0;
  exceeded = false;
  #limits: AllocationLimits | undefined;

  /** Count anew; undefined: without limits. */
  arm(limits: AllocationLimits | undefined): void {
    this.allocatedBytes = 0;
    this.exceeded = false;
    this.#limits = limits;
  }

  /** Wrap the constructors until `uninstall`. */
  install(): void {
    globalThis.Uint8Array = this.#wrap(native.Uint8Array);
    globalThis.ArrayBuffer = this.#wrap(native.ArrayBuffer);
  }

  uninstall(): void {
    globalThis.Uint8Array = native.Uint8Array;
    globalThis.ArrayBuffer = native.ArrayBuffer;
  }

  #wrap<T extends abstract new (...args: never[]) => unknown>(made: T): T {
    const count = (size: unknown): void => {
      if (typeof size !== 'number') return;
      this.allocatedBytes += size;
      const limits = this.#limits;
      if (limits === undefined || (size <= limits.oneBytes && this.allocatedBytes <= limits.allBytes)) return;
      this.exceeded = true;
      // Thrown before the memory is taken.
      throw new StateError('ABORTED', `${size} bytes asked for, ${this.allocatedBytes} in all`);
    };
    const plain = made as unknown as new (first: unknown) => unknown;
    function Counted(...args: unknown[]): unknown {
      count(args[0]);
      return args.length === 1 ? new plain(args[0]) : Reflect.construct(made, args, made);
    }
    Object.setPrototypeOf(Counted, made);
    Counted.prototype = made.prototype;
    return Counted as unknown as T;
  }
}
