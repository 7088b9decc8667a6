export { hashText, SeededRandom } from './seeded-random.ts';
