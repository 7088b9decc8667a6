/** What a run ends with: somebody says something else than the model. */
export class Disagreement extends Error {
  override readonly name = 'Disagreement';
}
