export type {
  GuestContent,
  QemuBitmap,
  QemuCheck,
  QemuFormatInfo,
  QemuInfo,
  QemuMapExtent,
  QemuSnapshot,
  Vector,
  VectorFile,
  VectorManifest,
  VectorRole,
} from './vector.ts';
export { loadManifest, loadVector, vectorNames, vectorsFolder } from './vector.ts';
