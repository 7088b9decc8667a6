/**
 * The golden vectors, as recipes. Sizes are the smallest that show what a vector is there for. Fill bytes
 * differ from write to write, so that a reader that mixes up two clusters reads something else.
 */
import { compressed, extendedL2, plain, shapes, zeroes } from './cluster-recipes.ts';
import {
  backing,
  bitmaps,
  dataFiles,
  encryption,
  refcountStructures,
  refcountWidths,
  snapshots,
} from './feature-recipes.ts';
import type { Recipe } from './recipe.ts';

/** Every golden vector, in the order of vectors/README.md. */
export const recipes: readonly Recipe[] = [
  ...plain,
  ...refcountWidths,
  ...refcountStructures,
  ...extendedL2,
  ...compressed,
  ...snapshots,
  ...bitmaps,
  ...encryption,
  ...dataFiles,
  ...backing,
  ...zeroes,
  ...shapes,
];
