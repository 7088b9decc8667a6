/**
 * The NBD protocol as data: magic numbers, option and command numbers, flags and the limits that this
 * implementation sets. Source: the protocol document of the NetworkBlockDevice project (doc/proto.md),
 * whose names are kept so that a reader can search for them. All integers on the wire are big-endian.
 *
 * Server and client share this module; neither imports the other.
 */

/** IANA's port for NBD. */
export const nbdDefaultPort = 10809;

/** Magic numbers of 64 bits, as two halves: a hot path that needs no BigInt. */
export const magic = {
  /** ASCII "NBDMAGIC", the first bytes of every server */
  initHigh: 0x4e42444d,
  initLow: 0x41474943,
  /** ASCII "IHAVEOPT", after it, and before each option of the client */
  optionHigh: 0x49484156,
  optionLow: 0x454f5054,
  /** in the place of IHAVEOPT: a server of the old style, which sends its only export at once */
  oldStyleHigh: 0x00004202,
  oldStyleLow: 0x81861253,
  /** before each reply to an option */
  optionReplyHigh: 0x0003e889,
  optionReplyLow: 0x045565a9,
  request: 0x25609513,
  simpleReply: 0x67446698,
  structuredReply: 0x668e33ef,
} as const;

/** Sizes in bytes of the fixed parts of messages. */
export const wireBytes = {
  greeting: 18,
  clientFlags: 4,
  optionHeader: 16,
  optionReplyHeader: 20,
  /** end of the handshake after NBD_OPT_EXPORT_NAME: size, flags and the zeros that NO_ZEROES leaves out */
  exportNameReply: 10,
  exportNameZeroes: 124,
  /** what a server of the old style sends behind its magic: size, flags and zeros */
  oldStyleExport: 136,
  requestHeader: 28,
  simpleReply: 16,
  chunkHeader: 20,
  /** the offset that begins the payload of an OFFSET_DATA chunk */
  chunkOffset: 8,
  /** error number and message length that begin the payload of an ERROR chunk */
  errorChunkHead: 6,
  /** context id that begins the payload of a BLOCK_STATUS chunk */
  blockStatusHead: 4,
  blockStatusDescriptor: 8,
} as const;

export const handshakeFlag = { FIXED_NEWSTYLE: 1 << 0, NO_ZEROES: 1 << 1 } as const;

export const clientFlag = { FIXED_NEWSTYLE: 1 << 0, NO_ZEROES: 1 << 1 } as const;

export const transmissionFlag = {
  HAS_FLAGS: 1 << 0,
  READ_ONLY: 1 << 1,
  SEND_FLUSH: 1 << 2,
  SEND_FUA: 1 << 3,
  ROTATIONAL: 1 << 4,
  SEND_TRIM: 1 << 5,
  SEND_WRITE_ZEROES: 1 << 6,
  SEND_DF: 1 << 7,
  CAN_MULTI_CONN: 1 << 8,
  SEND_RESIZE: 1 << 9,
  SEND_CACHE: 1 << 10,
  SEND_FAST_ZERO: 1 << 11,
} as const;

export const option = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

/** Replies to options; those from 2^31 on are errors. */
export const optionReply = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_PLATFORM: 0x80000004,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_BLOCK_SIZE_REQD: 0x80000008,
  ERR_TOO_BIG: 0x80000009,
} as const;

export const infoType = { EXPORT: 0, NAME: 1, DESCRIPTION: 2, BLOCK_SIZE: 3 } as const;

export const command = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;
export type CommandName = keyof typeof command;

export const commandFlag = {
  FUA: 1 << 0,
  NO_HOLE: 1 << 1,
  DF: 1 << 2,
  REQ_ONE: 1 << 3,
  FAST_ZERO: 1 << 4,
} as const;

export const chunkFlag = { DONE: 1 << 0 } as const;

export const chunkType = {
  NONE: 0,
  OFFSET_DATA: 1,
  OFFSET_HOLE: 2,
  BLOCK_STATUS: 5,
  ERROR: 0x8001,
  ERROR_OFFSET: 0x8002,
} as const;

/** The metadata context that every export has, its id, and the bits of its status. */
export const allocationContext = { name: 'base:allocation', id: 1 } as const;
export const allocationState = { HOLE: 1 << 0, ZERO: 1 << 1 } as const;

/** Limits of the protocol, and of this implementation where the protocol leaves them open. */
export const limits = {
  /** longest string (export name, description, error message), from the protocol */
  stringBytes: 4096,
  /** largest minimum block size, from the protocol */
  minimumBlockBytes: 64 * 1024,
  /** largest payload of one READ or WRITE: what the protocol asks every server to take */
  payloadBytes: 32 * 1024 * 1024,
  /** an option's data beyond this is skipped, and answered with ERR_TOO_BIG */
  optionBytes: 64 * 1024,
  /** a client that has this much to read and still asks does not wait for replies, as it must */
  handshakeOutputBytes: 1024 * 1024,
  /** longest text in an error chunk: enough to name offset, field and clause */
  errorMessageBytes: 1024,
  /** extents in one BLOCK_STATUS reply; the client asks again from where it ends */
  blockStatusDescriptors: 4096,
  /** requests of one connection that wait for the device; then the socket is not read until one is done */
  requestsInFlight: 256,
  /** reply bytes and write payloads that one connection holds; then the same. One request may overshoot it */
  heldBytes: 64 * 1024 * 1024,
} as const;

/** What a client takes from a server, and what it has under way at once. */
export const clientLimits = {
  /** replies to one option; an endless row of them is no answer */
  optionReplies: 65_536,
  /** names and descriptions of one list of exports, in characters */
  listCharacters: 4 * 1024 * 1024,
  /** requests that were sent and not answered yet; more wait in line */
  requestsInFlight: 64,
  /** payloads of those, to be written and to be read. One request may overshoot it */
  heldBytes: 64 * 1024 * 1024,
  /** descriptors of one BLOCK_STATUS reply that are looked at; what is beyond is asked for again */
  statusDescriptors: 65_536,
  /** payload of one BLOCK_STATUS chunk, most of it skipped */
  statusBytes: 64 * 1024 * 1024,
  /** payload of a chunk that says what went wrong */
  errorBytes: 64 * 1024 + 16,
  /** parts of one READ's reply that are apart from each other; servers send them in order, mostly */
  separateParts: 4096,
  /** the longest range that one TRIM or BLOCK_STATUS is about */
  rangeBytes: 2 ** 31 - 2 ** 20,
} as const;
