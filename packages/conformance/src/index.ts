export {
  type Citation,
  type CoverageInput,
  checkCoverage,
  findCitations,
  type ListEntry,
  parseList,
  parseLock,
  unproven,
} from './clause-coverage.ts';
export { type DraftVector, loadDraftVectors } from './draft-vectors.ts';
export {
  type ImageWalk,
  type Mapping,
  type Structure,
  type StructureKind,
  type Table,
  type WalkOptions,
  walkImage,
} from './image-walk.ts';
export { type CodeTables, type Constants, compareTables } from './layout-comparison.ts';
export {
  type BitRow,
  type BitTable,
  type Clause,
  type ClauseLevel,
  type ConstantRow,
  type ConstantTable,
  type FieldRow,
  type LayoutTable,
  parseSpec,
  type RangeRule,
  type SpecDocument,
} from './spec-document.ts';
export {
  type GuestContent,
  loadManifest,
  loadVector,
  type QemuBitmap,
  type QemuCheck,
  type QemuFormatInfo,
  type QemuInfo,
  type QemuMapExtent,
  type QemuSnapshot,
  type Vector,
  type VectorFile,
  type VectorManifest,
  type VectorRole,
  vectorNames,
  vectorsFolder,
} from './vector.ts';
