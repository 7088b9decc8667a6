/** Pictures of how an image's file is used, for a terminal and as SVG: a cell for each so many clusters, and a legend with shares. */
import { formatSize } from '../sizes.ts';
import { type ByUse, type HostUse, type Use, uses } from './host-use.ts';

/** Legend, sign, and colour: of 256 in a terminal, of all in SVG. The colours differ in lightness too. */
const looks: Readonly<
  Record<
    Use,
    { readonly title: string; readonly sign: string; readonly terminal: number; readonly svg: string }
  >
> = {
  free: { title: 'free', sign: '.', terminal: 240, svg: '#e8e8e8' },
  data: { title: 'data', sign: '#', terminal: 33, svg: '#2f6fb7' },
  compressed: { title: 'compressed', sign: 'c', terminal: 37, svg: '#2aa198' },
  shared: { title: 'shared with snapshots', sign: '+', terminal: 170, svg: '#a25ab8' },
  metadata: { title: 'metadata', sign: 'M', terminal: 208, svg: '#d9822b' },
  journal: { title: 'journal', sign: 'J', terminal: 160, svg: '#b5312f' },
};

/** What a cell mostly is. What is rare and telling is not lost beside a little more of the usual: metadata shows from a quarter on. */
function mostly(cell: ByUse): Use {
  const all = uses.reduce((sum, use) => sum + cell[use], 0);
  for (const telling of ['journal', 'metadata'] as const) if (cell[telling] * 4 >= all) return telling;
  return uses.reduce((most, use) => (cell[use] > cell[most] ? use : most), 'free');
}

export interface TextPictureOptions {
  /** Cells in a line. */
  readonly columns: number;
  readonly colour: boolean;
}

export function textPicture(picture: HostUse, { columns, colour }: TextPictureOptions): string {
  const signs = picture.cells.map(mostly);
  const lines: string[] = [];
  const lineBytes = columns * picture.cellClusters * picture.clusterBytes;
  const width = `0x${(Math.max(0, Math.ceil(signs.length / columns) - 1) * lineBytes).toString(16)}`.length;
  for (let at = 0; at < signs.length; at += columns) {
    const offset = `0x${((at / columns) * lineBytes).toString(16)}`;
    lines.push(`${offset.padStart(width)}  ${runs(signs.slice(at, at + columns), colour)}`);
  }
  const legend = usedOf(picture).map((use) => {
    const { title } = looks[use];
    return `${runs([use], colour)} ${title}: ${shareText(picture, use)}`;
  });
  const cell = formatSize(picture.cellClusters * picture.clusterBytes);
  return `${lines.join('\n')}\n\n${legend.join('\n')}\none sign: ${cell}\n`;
}

/** Neighbours of one colour share its escape sequence. */
function runs(cells: readonly Use[], colour: boolean): string {
  if (!colour) return cells.map((use) => looks[use].sign).join('');
  let text = '';
  let last: Use | undefined;
  for (const use of cells) {
    if (use !== last) text += `\u001b[38;5;${looks[use].terminal}m`;
    text += looks[use].sign;
    last = use;
  }
  return `${text}\u001b[0m`;
}

function usedOf({ total }: HostUse): Use[] {
  return uses.filter((use) => total[use] > 0);
}

function shareText({ total, clusterBytes, clusters }: HostUse, use: Use): string {
  const share = (100 * total[use]) / clusters;
  const text = share > 0 && share < 0.1 ? 'below 0.1' : share.toFixed(1);
  return `${formatSize(total[use] * clusterBytes)} (${text} %)`;
}

const square = 8;
const lineHeight = 18;

/** An SVG document. Each cell is a square of its main use; a title shows what it is when pointed at. */
export function svgPicture(picture: HostUse, columns: number): string {
  const rows = Math.ceil(picture.cells.length / columns);
  const used = usedOf(picture);
  const top = rows * square + lineHeight;
  const width = Math.max(columns * square, 420);
  const height = top + used.length * lineHeight;
  const cellBytes = picture.cellClusters * picture.clusterBytes;
  const squares = picture.cells.map((cell, at) => {
    const use = mostly(cell);
    const place = `x="${(at % columns) * square}" y="${Math.floor(at / columns) * square}"`;
    const title = `0x${(at * cellBytes).toString(16)}: ${looks[use].title}`;
    return `<rect ${place} width="${square - 1}" height="${square - 1}" fill="${looks[use].svg}"><title>${title}</title></rect>`;
  });
  const legend = used.map((use, at) => {
    const y = top + at * lineHeight;
    const sample = `<rect x="0" y="${y}" width="10" height="10" fill="${looks[use].svg}"/>`;
    return `${sample}<text x="16" y="${y + 9}">${looks[use].title}: ${shareText(picture, use)}</text>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="sans-serif" font-size="12">
<title>one square: ${formatSize(cellBytes)}</title>
${squares.join('\n')}
${legend.join('\n')}
</svg>
`;
}
