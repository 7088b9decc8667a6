/**
 * Branded units: a guest offset and a host offset are both numbers, and mixing them up is the classic
 * way to lose an image. The brands exist only in the type system; at run time these are plain numbers.
 *
 * Offsets and lengths are `number` up to 2^53 - 1 (ADR 2). What the format can name beyond that is
 * refused on decoding with `OFFSET_TOO_LARGE`.
 */
declare const unit: unique symbol;

/** Byte offset in the disk that the guest sees. */
export type GuestOffset = number & { readonly [unit]: 'guest' };
/** Byte offset in the image file (or its external data file). */
export type HostOffset = number & { readonly [unit]: 'host' };
/** Index of a guest cluster: guest offset >> cluster bits. */
export type GuestCluster = number & { readonly [unit]: 'guest-cluster' };
/** Index of a host cluster: host offset >> cluster bits. */
export type HostCluster = number & { readonly [unit]: 'host-cluster' };

export const guestOffset = (value: number): GuestOffset => value as GuestOffset;
export const hostOffset = (value: number): HostOffset => value as HostOffset;
export const guestCluster = (value: number): GuestCluster => value as GuestCluster;
export const hostCluster = (value: number): HostCluster => value as HostCluster;
