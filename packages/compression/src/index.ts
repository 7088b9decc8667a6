export { type NodeCompressionOptions, nodeCompression } from './node-compression.ts';
