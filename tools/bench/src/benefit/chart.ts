/**
 * Charts as SVG: rows in groups, each row a bar on one axis, perhaps with the spread of what was measured. A chart looks after
 * itself on light and on dark pages: text and lines follow the reader's colour scheme, and nothing is painted behind them.
 */

export interface Chart {
  readonly title: string;
  readonly axis: Axis;
  readonly series: readonly Series[];
  readonly groups: readonly Group[];
}

export interface Axis {
  readonly label: string;
  readonly scale: 'linear' | 'log';
  readonly min: number;
  readonly max: number;
  readonly ticks: readonly number[];
  /** Bars begin here, and a line is drawn. */
  readonly base: number;
}

export interface Series {
  readonly name: string;
  readonly colour: string;
}

export interface Group {
  readonly label: string;
  readonly marks: readonly Mark[];
}

export interface Mark {
  /** Index into the chart's series. */
  readonly series: number;
  /** Where the bar begins; the axis' base if not given. */
  readonly from?: number;
  readonly to: number;
  readonly low?: number;
  readonly high?: number;
  /** Stands at the bar's end. */
  readonly text: string;
}

const width = 860;
const left = 250;
const right = 70;
const rowHeight = 13;
const barHeight = 9;
const groupGap = 12;
const headHeight = 78;
const footHeight = 44;

/** The drawing. What lies outside the axis is drawn at its end. */
export function chartText(chart: Chart): string {
  const rows = chart.groups.reduce((sum, { marks }) => sum + marks.length * rowHeight + groupGap, 0);
  const height = headHeight + rows + footHeight;
  const parts = [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img">`,
    `<title>${escaped(chart.title)}</title>`,
    style,
    text(16, 24, 'title', chart.title),
    ...legend(chart.series),
    ...axisParts(chart.axis, headHeight, headHeight + rows),
  ];
  let y = headHeight;
  for (const { label, marks } of chart.groups) {
    y += groupGap / 2;
    const middle = y + (marks.length * rowHeight) / 2 + 4;
    parts.push(text(left - 10, middle, 'group', label));
    for (const mark of marks) {
      parts.push(...markParts(chart, mark, y));
      y += rowHeight;
    }
    y += groupGap / 2;
  }
  parts.push('</svg>');
  return `${parts.join('\n')}\n`;
}

const style = `<style>
text { font: 11px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 15px; font-weight: 600; }
.group, .end { text-anchor: end; }
.tick { text-anchor: middle; }
.grid { stroke: #8c959f; stroke-opacity: 0.35; stroke-width: 1; }
.base { stroke: #57606a; stroke-width: 1.5; }
.spread { stroke: #24292f; stroke-opacity: 0.75; stroke-width: 1; }
@media (prefers-color-scheme: dark) {
text { fill: #d8dee4; }
.base { stroke: #afb8c1; }
.spread { stroke: #f0f3f6; }
}
</style>`;

function legend(series: readonly Series[]): string[] {
  let x = 16;
  return series.flatMap(({ name, colour }) => {
    const at = x;
    x += 32 + name.length * 6.8;
    return [
      `<rect x="${fixed(at)}" y="40" width="11" height="11" rx="2" fill="${colour}"/>`,
      text(at + 16, 50, 'key', name),
    ];
  });
}

function axisParts(axis: Axis, top: number, bottom: number): string[] {
  const line = (value: number, kind: string): string => {
    const x = fixed(position(axis, value));
    return `<line class="${kind}" x1="${x}" y1="${top}" x2="${x}" y2="${bottom}"/>`;
  };
  return [
    ...axis.ticks.flatMap((tick) => [
      line(tick, 'grid'),
      text(position(axis, tick), bottom + 15, 'tick', tick.toLocaleString('en-US')),
    ]),
    line(axis.base, 'base'),
    text((left + width - right) / 2, bottom + 34, 'tick', axis.label),
  ];
}

function markParts({ axis, series }: Chart, mark: Mark, y: number): string[] {
  const [from, to] = [position(axis, mark.from ?? axis.base), position(axis, mark.to)];
  const [start, end] = [Math.min(from, to), Math.max(from, to)];
  const middle = fixed(y + barHeight / 2);
  const { colour } = series[mark.series]!;
  const parts = [
    `<rect x="${fixed(start)}" y="${fixed(y)}" width="${fixed(Math.max(end - start, 1.5))}" height="${barHeight}" rx="1.5" fill="${colour}"/>`,
  ];
  let textAt = end;
  if (mark.low !== undefined && mark.high !== undefined) {
    const [low, high] = [position(axis, mark.low), position(axis, mark.high)];
    parts.push(`<line class="spread" x1="${fixed(low)}" y1="${middle}" x2="${fixed(high)}" y2="${middle}"/>`);
    textAt = Math.max(textAt, high);
  }
  parts.push(text(textAt + 5, y + barHeight, 'value', mark.text));
  return parts;
}

function position({ scale, min, max }: Axis, value: number): number {
  const along = scale === 'log' ? Math.log(value / min) / Math.log(max / min) : (value - min) / (max - min);
  const inside = Number.isFinite(along) ? Math.min(1, Math.max(0, along)) : 0;
  return left + inside * (width - left - right);
}

function text(x: number, y: number, kind: string, content: string): string {
  return `<text class="${kind}" x="${fixed(x)}" y="${fixed(y)}">${escaped(content)}</text>`;
}

function fixed(value: number): string {
  return String(Math.round(value * 10) / 10);
}

function escaped(content: string): string {
  return content.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
}
