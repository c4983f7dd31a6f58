/* pictures.js - pictures that are no curves over steps, as SVG: paths, bars, histograms, reliability. */
'use strict';

function svg(tag, attributes, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes || {})) node.setAttribute(name, value);
  node.append(...children.flat(Infinity).filter(Boolean).map(c => c instanceof Node ? c : String(c)));
  return node;
}

function caption(title, what) { return el('figcaption', {}, el('strong', {}, title), what ? el('span', { class: 'dim' }, what) : null); }

function picture(title, what, description, content, attributes) {
  return el('figure', Object.assign({ class: 'card' }, attributes),
    caption(title, what),
    content instanceof SVGElement ? (content.setAttribute('role', 'img'), content.setAttribute('aria-label', description), content) : content);
}

function niceTicks(low, high, count) {
  if (!(high > low)) return [low];
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find(k => k * power >= rough);
  const ticks = [];
  for (let v = Math.ceil(low / step) * step; v <= high + step * 1e-9; v += step) ticks.push(Math.abs(v) < step * 1e-9 ? 0 : v);
  return ticks;
}

/* A frame with axes: x and y map values to places. */
class Frame {
  constructor(x, y, labels) {
    [this.w, this.h, this.left, this.bottom] = [420, 240, 46, 34];
    this.xs = x[0] === x[1] ? [x[0] - 1, x[1] + 1] : x;
    this.ys = y[0] === y[1] ? [y[0] - 1, y[1] + 1] : y;
    this.node = svg('svg', { viewBox: `0 0 ${this.w} ${this.h}`, class: 'picture' });
    for (const v of niceTicks(this.ys[0], this.ys[1], 5)) {
      this.add('line', { x1: this.left, x2: this.w - 8, y1: this.y(v), y2: this.y(v), class: 'grid' });
      this.add('text', { x: this.left - 6, y: this.y(v) + 4, class: 'tick end' }, format(v, 3));
    }
    for (const v of niceTicks(this.xs[0], this.xs[1], 5))
      this.add('text', { x: this.x(v), y: this.h - this.bottom + 15, class: 'tick middle' }, format(v, 3));
    this.add('text', { x: (this.left + this.w) / 2, y: this.h - 3, class: 'tick middle' }, labels[0]);
    this.add('text', { x: -(this.h - this.bottom) / 2, y: 11, transform: 'rotate(-90)', class: 'tick middle' }, labels[1]);
  }
  x(v) { return this.left + (v - this.xs[0]) / (this.xs[1] - this.xs[0]) * (this.w - this.left - 12); }
  y(v) { return this.h - this.bottom - (v - this.ys[0]) / (this.ys[1] - this.ys[0]) * (this.h - this.bottom - 10); }
  add(tag, attributes, ...children) { const node = svg(tag, attributes, ...children); this.node.append(node); return node; }
}

function extent(values, pad = 0.06) {
  const v = values.filter(isNumber), low = Math.min(...v), high = Math.max(...v), room = (high - low) * pad || Math.abs(high) * pad;
  return [low - room, high + room];
}

/* --- reward against KL: the route of training, and what was measured at its stations --- */

/* Lines of {label, color, points: [{x, y, note}], dashed}; a dot marks where each ends. */
function pathPicture(title, what, axes, lines, attributes) {
  const all = lines.flatMap(line => line.points);
  const frame = new Frame(extent(all.map(p => p.x)), extent(all.map(p => p.y)), axes);
  for (const line of lines) {
    const at = line.points.map(p => `${frame.x(p.x).toFixed(1)},${frame.y(p.y).toFixed(1)}`);
    const path = frame.add('polyline', { points: at.join(' '), class: 'path' });
    path.style.stroke = line.color;
    if (line.dashed) path.style.strokeDasharray = '5 4';
    line.points.forEach((p, i) => {
      const end = i === line.points.length - 1;
      const dot = frame.add('circle', { cx: frame.x(p.x), cy: frame.y(p.y), r: end ? 5 : line.points.length > 40 ? 1.5 : 3 },
        svg('title', {}, `${line.label}, ${p.note}: KL ${format(p.x)}, ${format(p.y)}`));
      dot.style.fill = line.color;
      if (!end) dot.style.fillOpacity = 0.25 + 0.75 * i / line.points.length;
    });
  }
  const legend = el('p', { class: 'legend' }, lines.map(line => {
    const swatch = el('span', { class: 'swatch' + (line.dashed ? ' dashed' : '') });
    swatch.style.borderColor = line.color;
    return el('span', { class: 'chip' }, swatch, line.label);
  }));
  const spoken = lines.map(line => {
    const p = line.points[line.points.length - 1];
    return `${line.label} ends at KL ${format(p.x)} with ${format(p.y)}`;
  }).join('. ');
  const figure = picture(title, what, `${title}. ${spoken}.`, frame.node, attributes);
  figure.insertBefore(legend, frame.node);
  return figure;
}

function scorePath(runs) {
  const lines = runs.filter(run => run.shown && has(run, 'objective/kl') && has(run, 'objective/raw_scores')).map(run => {
    const amount = page.smoothing && Math.max(page.smoothing, 0.8); // two noisy axes need more
    const kl = smooth(run.columns['objective/kl'], amount), score = smooth(run.columns['objective/raw_scores'], amount);
    const points = [];
    for (let i = 0; i < run.n; i++)
      if (isNumber(kl[i]) && isNumber(score[i])) points.push({ x: kl[i], y: score[i], note: 'step ' + run.columns.step[i] });
    return { label: run.name, color: runColor(run), points };
  }).filter(line => line.points.length);
  return lines.length ? pathPicture('Score against KL', 'the route of training; its end is the large dot', ['KL, nats', 'score'], lines) : null;
}

/* Over-optimization: score and gold against KL. From a sweep where there is one, else from the evaluations. */
function frontierLines(run, key, other) {
  const sweep = run.evals.find(e => e.kind === 'sweep' && Array.isArray(e.points));
  const points = sweep ? sweep.points.filter(p => isNumber(p.kl) && isNumber(p[key])).map(p => ({ x: p.kl, y: p[key], note: 'step ' + p.step }))
    : stations(run, key, other);
  return points.sort((a, b) => a.x - b.x);
}

function stations(run, key, column) {
  const points = [], kl = run.columns['eval/kl'] || [], v = run.columns[column] || [];
  for (let i = 0; i < run.n; i++)
    if (isNumber(kl[i]) && isNumber(v[i])) points.push({ x: kl[i], y: v[i], note: 'step ' + run.columns.step[i] });
  const r = run.result || {};
  if (!points.length && isNumber(r.kl_final) && isNumber(r[key + '_before']) && isNumber(r[key + '_after']))
    points.push({ x: 0, y: r[key + '_before'], note: 'before' }, { x: r.kl_final, y: r[key + '_after'], note: 'at the end' });
  return points;
}

function frontier(runs) {
  const lines = [];
  for (const run of runs.filter(r => r.shown)) {
    const gold = frontierLines(run, 'gold', 'eval/gold'), score = frontierLines(run, 'score', 'eval/scores');
    if (gold.length > 1) lines.push({ label: run.name + ' gold', color: runColor(run), points: gold });
    if (score.length > 1) lines.push({ label: run.name + ' score', color: runColor(run), points: score, dashed: true });
    for (const sweep of run.evals.filter(e => e.kind === 'sweep' && Array.isArray(e.best_of))) {
      const of = key => sweep.best_of.filter(p => isNumber(p.kl) && isNumber(p[key])).map(p => ({ x: p.kl, y: p[key], note: 'best of ' + p.n }));
      if (of('gold').length > 1) lines.push({ label: run.name + ' best of n, gold', color: cssColor('--dim'), points: of('gold') });
      if (of('score').length > 1) lines.push({ label: run.name + ' best of n, score', color: cssColor('--dim'), points: of('score'), dashed: true });
    }
  }
  return lines.length ? pathPicture('Over-optimization', 'reward bought with KL, on held-out prompts: gold that falls while the score rises is hacking',
    ['KL, nats per answer', 'reward'], lines, { 'data-picture': 'frontier' }) : null;
}

/* --- evaluations of a reward model --- */

/* rows [[name, value 0..1, note]] */
function barsPicture(title, what, rows, mark) {
  const list = el('div', { class: 'bars', role: 'table', 'aria-label': title });
  for (const [name, value, note] of rows) {
    const bar = el('span', { class: 'bar' + (mark !== undefined && value < mark ? ' low' : '') });
    bar.style.width = Math.max(0, Math.min(1, value)) * 100 + '%';
    list.append(el('div', { role: 'row' }, el('span', { role: 'cell', class: 'name' }, name),
      el('span', { class: 'track', 'aria-hidden': 'true' }, bar),
      el('span', { role: 'cell', class: 'value' }, format(value, 3), note ? el('span', { class: 'dim' }, ' ' + note) : null)));
  }
  return picture(title, what, '', list, { 'data-picture': title });
}

function reliability(e) {
  const frame = new Frame([0.5, 1], [Math.min(0.4, ...e.reliability.map(b => b.accuracy).filter(isNumber)), 1], ['confidence', 'accuracy']);
  const ideal = frame.add('line', { x1: frame.x(0.5), y1: frame.y(0.5), x2: frame.x(1), y2: frame.y(1), class: 'ideal' });
  ideal.append(svg('title', {}, 'calibrated'));
  const most = Math.max(...e.reliability.map(b => b.n || 1));
  const bins = e.reliability.filter(b => isNumber(b.confidence) && isNumber(b.accuracy));
  const path = frame.add('polyline', { class: 'path', points: bins.map(b => `${frame.x(b.confidence)},${frame.y(b.accuracy)}`).join(' ') });
  path.style.stroke = cssColor('--series-0');
  for (const b of bins) {
    const dot = frame.add('circle', { cx: frame.x(b.confidence), cy: frame.y(b.accuracy), r: 3 + 6 * Math.sqrt((b.n || 1) / most) },
      svg('title', {}, `confidence ${format(b.confidence, 3)}: right in ${format(b.accuracy, 3)} of ${b.n}`));
    dot.style.fill = faint(cssColor('--series-0'), 0.55);
  }
  return picture('Reliability', `expected calibration error ${format(e.ece, 3)}`, `Reliability: ${bins.map(b => `${format(b.confidence, 2)} confident, ${format(b.accuracy, 2)} right`).join('; ')}`,
    frame.node, { 'data-picture': 'reliability' });
}

function histograms(e) {
  const sets = [['chosen', e.chosen, '--series-2'], ['rejected', e.rejected, '--series-1']].filter(s => s[1] && s[1].edges && s[1].counts);
  const edges = sets.flatMap(s => s[1].edges), most = Math.max(...sets.flatMap(s => s[1].counts));
  const frame = new Frame([Math.min(...edges), Math.max(...edges)], [0, most * 1.05], ['score', 'answers']);
  for (const [name, h, color] of sets)
    h.counts.forEach((count, i) => {
      const x = frame.x(h.edges[i]), y = frame.y(count);
      const bar = frame.add('rect', { x, y, width: Math.max(0.5, frame.x(h.edges[i + 1]) - x - 0.5), height: Math.max(0, frame.y(0) - y) },
        svg('title', {}, `${name}: ${count} from ${format(h.edges[i], 3)} to ${format(h.edges[i + 1], 3)}`));
      bar.style.fill = faint(cssColor(color), 0.5);
    });
  const legend = el('p', { class: 'legend' }, sets.map(([name, , color]) => {
    const swatch = el('span', { class: 'swatch' });
    swatch.style.borderColor = cssColor(color);
    return el('span', { class: 'chip' }, swatch, name);
  }));
  const figure = picture('Scores', 'of chosen and rejected answers', 'Histogram of scores of chosen and rejected answers', frame.node, { 'data-picture': 'histograms' });
  figure.insertBefore(legend, frame.node);
  return figure;
}

function lengthBias(e) {
  const rows = e.length_bins.filter(b => isNumber(b.accuracy)).map(b => [`${format(b.from)} … ${format(b.to)}`, b.accuracy, `of ${b.n}`]);
  return barsPicture('Accuracy by length', 'chosen minus rejected, in tokens; a slope is a bias', rows, 0.5);
}

/* Flat numbers of an evaluation, with their confidence limits where there are any. */
function numbersTable(title, e) {
  const rows = Object.entries(e).filter(([k, v]) => isNumber(v) && !/_(low|high)$/.test(k)).map(([k, v]) =>
    el('tr', {}, el('th', { scope: 'row' }, k), el('td', {}, format(v)),
      el('td', { class: 'dim' }, isNumber(e[k + '_low']) && isNumber(e[k + '_high']) ? `${format(e[k + '_low'])} … ${format(e[k + '_high'])}` : '')));
  return rows.length ? picture(title, e.file, '', el('table', {}, el('tbody', {}, rows)), { 'data-picture': 'numbers' }) : null;
}

function bySubset(title, what, object) {
  const rows = Object.entries(object).filter(([, v]) => isNumber(v)).sort((a, b) => b[1] - a[1]).map(([k, v]) => [k, v]);
  return rows.length ? barsPicture(title, what, rows, 0.5) : null;
}

function evaluationPictures(run) {
  const out = [], r = run.result || {};
  for (const e of run.evals) {
    if (Array.isArray(e.reliability) && e.reliability.length) out.push(reliability(e));
    if (e.chosen && e.rejected) out.push(histograms(e));
    if (Array.isArray(e.subsets) && e.subsets.length)
      out.push(barsPicture('Accuracy by subset', e.data, e.subsets.filter(s => isNumber(s.accuracy)).map(s => [s.subset, s.accuracy, `of ${s.n}`]), 0.5));
    if (Array.isArray(e.length_bins) && e.length_bins.length) out.push(lengthBias(e));
    out.push(numbersTable(e.kind === 'policy' ? 'Policy on held-out prompts' : e.kind === 'reward' ? 'Reward model on pairs' : 'Evaluation', e));
  }
  if (r.accuracy_by_part) out.push(bySubset('Accuracy by what is wrong', 'pairs that differ in one thing; below one half it is seen the wrong way', r.accuracy_by_part));
  if (r.accuracy_by_subset) out.push(bySubset('Accuracy by kind of pair', 'held-out pairs', r.accuracy_by_subset));
  return out.filter(Boolean);
}
