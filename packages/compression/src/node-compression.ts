/**
 * Compressed clusters by `node:zlib`, whose calls run on the worker threads of libuv: several clusters at once, and none
 * of them on the thread that serves requests. How many are under way, and how many bytes they hold, is bounded by the
 * image that asks.
 *
 * A call allocates one cluster and a little more, whatever the data says: output behind that ends it. What a zstd frame
 * asks for is looked at before the decoder sees it.
 *
 * One exception: zstd compresses 64 KiB in less time than it takes to hand them to a thread and be told. Threads are worth that only where
 * several processors have nothing else to do; with fewer, small clusters are compressed where they are, which halves the work.
 *
 * Loading `node:zlib` takes longer than opening an image: it is loaded for the first cluster.
 */
import { availableParallelism } from 'node:os';
import { type ClusterCompression, damagedCluster, outlineZstdFrame, unservedCompression } from '@qcow2/codec';
import { compressionTypes, StorageError } from '@qcow2/spec';

export interface NodeCompressionOptions {
  /** Clusters under way at once; default 4, the worker threads that Node has unless it is told otherwise. */
  readonly parallelJobs?: number;
  /** Small clusters are compressed by zstd on the caller's thread; if not given, where the machine has fewer than four processors. */
  readonly zstdHere?: boolean;
}

/** As QEMU writes: the window is 4 KiB [CMP-015]. */
const deflateOptions = { windowBits: 12, memLevel: 9 } as const;
/** Output that makes more than a cluster is to be seen as such, not to fill a second buffer. */
const spareBytes = 64;

const zlib = () => process.getBuiltinModule('node:zlib');

type Callback = (error: Error | null, result: Buffer) => void;

const fewProcessors = 4;
const smallClusterBytes = 65536;

/** Deflate and zstd. The result may be shared by any number of images. */
export function nodeCompression(options: NodeCompressionOptions = {}): ClusterCompression {
  const { parallelJobs = 4, zstdHere = availableParallelism() < fewProcessors } = options;
  return {
    parallelJobs,
    decompress,
    compress: (type, cluster) =>
      zstdHere && type === compressionTypes.zstd && cluster.length <= smallClusterBytes
        ? compressHere(cluster)
        : compress(type, cluster),
  };
}

function decompress(type: number, bytes: Uint8Array, clusterBytes: number): Promise<Uint8Array> {
  const bounds = { maxOutputLength: clusterBytes, chunkSize: clusterBytes + spareBytes };
  switch (type) {
    case compressionTypes.deflate:
      // Where the stream is cut off, what has come out of it is looked at all the same.
      return decompressed(clusterBytes, (done) =>
        zlib().inflateRaw(bytes, { ...bounds, finishFlush: zlib().constants.Z_SYNC_FLUSH }, done),
      );
    case compressionTypes.zstd: {
      const { lengthBytes } = outlineZstdFrame(bytes, clusterBytes);
      return decompressed(clusterBytes, (done) =>
        zlib().zstdDecompress(bytes.subarray(0, lengthBytes), bounds, done),
      );
    }
    default:
      throw unservedCompression(type);
  }
}

async function decompressed(clusterBytes: number, start: (done: Callback) => void): Promise<Uint8Array> {
  const cluster = await finished(start);
  if (cluster.length !== clusterBytes) throw damagedCluster('compressed data makes less than a cluster');
  return cluster;
}

async function compress(type: number, cluster: Uint8Array): Promise<Uint8Array | undefined> {
  const data = await finished((done) => {
    switch (type) {
      case compressionTypes.deflate:
        return zlib().deflateRaw(cluster, { ...deflateOptions, chunkSize: cluster.length }, done);
      case compressionTypes.zstd:
        return zlib().zstdCompress(cluster, zstdOptions(cluster), done);
      default:
        throw unservedCompression(type);
    }
  });
  return data.length < cluster.length ? data : undefined;
}

function compressHere(cluster: Uint8Array): Uint8Array | undefined {
  try {
    const data = zlib().zstdCompressSync(cluster, zstdOptions(cluster));
    return data.length < cluster.length ? plainBytes(data) : undefined;
  } catch (error) {
    throw error instanceof Error ? explained(error) : error;
  }
}

/** With its size known a frame names it, and asks for no larger a window. */
function zstdOptions(cluster: Uint8Array) {
  return { pledgedSrcSize: cluster.length, chunkSize: cluster.length };
}

/** Who copies a piece of a Buffer by `slice` gets none. */
function plainBytes({ buffer, byteOffset, length }: Buffer): Uint8Array {
  return new Uint8Array(buffer, byteOffset, length);
}

function finished(start: (done: Callback) => void): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    start((error, result) => {
      if (error === null) resolve(plainBytes(result));
      else reject(explained(error));
    });
  });
}

function explained(error: Error): Error {
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ERR_BUFFER_TOO_LARGE')
    return damagedCluster('compressed data makes more than a cluster', error);
  if (code === 'Z_MEM_ERROR' || code === 'ZSTD_error_memory_allocation') {
    return new StorageError('READ_FAILED', 'there is no memory to decompress a cluster', {}, error);
  }
  return damagedCluster('compressed data can not be decompressed', error);
}
