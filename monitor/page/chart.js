/* chart.js - one picture of curves over steps: dygraphs, one colour per run, one dash pattern per metric. */
'use strict';

/* Values stand in our own legend, titles in captions; the library's would set styles as markup. */
Dygraph.PLUGINS = Dygraph.PLUGINS.filter(p => p !== Dygraph.Plugins.Legend && p !== Dygraph.Plugins.ChartLabels);

const DASHES = [null, [6, 3], [2, 2], [8, 3, 2, 3], [1, 3]];

/* Without touch handlers a finger scrolls the page; a tap still shows values. */
function interaction() {
  const model = Object.assign({}, Dygraph.defaultInteractionModel);
  for (const name of ['touchstart', 'touchmove', 'touchend']) delete model[name];
  return model;
}

/* Every (run, metric) of a curve that has values. */
function linesOf(curve, runs) {
  const lines = [];
  for (const run of runs)
    curve.series.forEach((name, i) => {
      if (has(run, name)) lines.push({ run, name, dash: DASHES[i % DASHES.length], points: /^eval\//.test(name) });
    });
  return lines;
}

/* Rows [x, line 0, line 1, ...] over the union of all positions; null: this line has no row here. */
function tableOf(lines, values) {
  const rows = new Map();
  lines.forEach((line, i) => {
    for (let row = 0; row < line.run.n; row++) {
      const x = position(line.run, row), v = values[i][row];
      if (!isNumber(x) || !isNumber(v)) continue;
      let at = rows.get(x);
      if (!at) rows.set(x, at = new Array(lines.length + 1).fill(null)), at[0] = x;
      at[i + 1] = v;
    }
  });
  return [...rows.values()].sort((a, b) => a[0] - b[0]);
}

function stacked(values) {
  const sum = [];
  return values.map(column => column.map((v, row) => (sum[row] = (sum[row] || 0) + (v || 0))));
}

class Chart {
  constructor(curve, runs) {
    this.curve = curve;
    this.runs = runs;
    this.legend = el('p', { class: 'legend', 'aria-live': 'off' });
    this.box = el('div', { class: 'plot', tabindex: '0', role: 'img', onkeydown: e => this.onKey(e),
      onfocus: () => this.legend.setAttribute('aria-live', 'polite'),
      onblur: () => { this.legend.setAttribute('aria-live', 'off'); this.unselect(); } });
    this.alarmBox = el('p', { class: 'marks' });
    this.figure = el('figure', { class: 'card', 'data-metrics': curve.series.join(' ') },
      caption(curve.title, curve.what), this.legend, this.box, this.alarmBox);
  }

  shown() { return linesOf(this.curve, this.runs.filter(run => run.shown)); }

  /* Raw values faint, smoothed ones solid, in this order. */
  prepare() {
    this.lines = this.shown();
    const raw = this.lines.map(line => line.run.columns[line.name]);
    const base = this.curve.stack ? stacked(raw) : raw;
    const few = line => line.points || line.run.columns[line.name].filter(isNumber).length < 8;
    this.drawn = [];
    const values = [];
    const add = (i, column, kind) => { this.drawn.push(Object.assign({ kind, index: i }, this.lines[i])); values.push(column); };
    this.lines.forEach((line, i) => {
      const smoothed = page.smoothing > 0 && !few(line) && !this.curve.stack;
      if (smoothed) add(i, base[i], 'raw');
      add(i, smoothed ? smooth(base[i], page.smoothing) : base[i], 'line');
    });
    this.table = tableOf(this.drawn, values);
  }

  options() {
    const labels = ['x'], colors = [], series = {};
    this.drawn.forEach((d, i) => {
      const label = i + ' ' + d.run.name + ' ' + d.name;
      const own = this.curve.stack ? cssColor('--series-' + d.index % 8) : runColor(d.run);
      labels.push(label);
      colors.push(d.kind === 'raw' ? faint(own, 0.28) : own);
      series[label] = { strokeWidth: d.kind === 'raw' ? 1 : 1.8, strokePattern: d.kind === 'raw' ? null : d.dash,
        drawPoints: d.points || this.table.length < 8, pointSize: d.points ? 3.5 : 2.5,
        highlightCircleSize: d.kind === 'raw' ? 0 : 4 };
    });
    const grid = cssColor('--grid'), log = page.log && this.table.some(row => row.slice(1).some(v => v > 0));
    return { labels, colors, series, legend: 'never', connectSeparatedPoints: true, logscale: log,
      includeZero: !!this.curve.zero && !log, gridLineColor: grid, axisLineColor: grid, gridLineWidth: 1, rightGap: 14,
      xRangePad: 4, yRangePad: 8, animatedZooms: false, interactionModel: interaction(),
      axes: { x: { axisLabelFormatter: v => this.axisText(v), pixelsPerLabel: 50, drawGrid: false },
        y: { axisLabelFormatter: v => format(v, 3), axisLabelWidth: 52, pixelsPerLabel: 28 } },
      highlightCallback: (event, x) => this.select(x), unhighlightCallback: () => this.unselect(),
      underlayCallback: (context, area, g) => this.drawAlarms(context, area, g) };
  }

  axisText(v) { return page.axis === 'time' ? format(v, 3) + ' min' : v < 0 ? '' : format(v, 3); }

  draw() {
    this.prepare();
    this.figure.classList.toggle('empty', !this.table.length);
    this.describe();
    this.showValues(null);
    this.showAlarms();
    if (!this.table.length) { this.destroy(); return; }
    if (this.visible === false) return;
    const signature = this.drawn.map(d => d.kind + d.run.name + d.name).join();
    if (this.graph && signature === this.signature) {
      const { labels, ...rest } = this.options();
      this.graph.updateOptions(Object.assign({ file: this.table }, rest));
    } else {
      this.destroy();
      this.signature = signature;
      this.graph = new Dygraph(this.box, this.table, this.options());
    }
  }

  destroy() {
    if (this.graph) this.graph.destroy();
    this.graph = null;
  }

  /* --- what a reader hears or sees as text --- */

  describe() {
    const parts = this.lines.map(line => {
      const v = line.run.columns[line.name].filter(isNumber);
      return `${line.run.name} ${line.name}: ${format(v[0])} at first, ${format(v[v.length - 1])} at last, ` +
        `between ${format(Math.min(...v))} and ${format(Math.max(...v))}`;
    });
    this.box.setAttribute('aria-label', `${this.curve.title}. ${parts.join('. ')}. Arrow keys read values.`);
  }

  valueAt(line, x) {
    if (x === null) return lastOf(line.run, line.name);
    let best = null, distance = Infinity;
    for (let row = 0; row < line.run.n; row++) {
      const v = line.run.columns[line.name][row], d = Math.abs(position(line.run, row) - x);
      if (isNumber(v) && d < distance) best = v, distance = d;
    }
    return line.points || distance < 1e-9 || page.axis !== 'step' ? best : (distance <= (line.run.group || 1) ? best : null);
  }

  showValues(x) {
    const many = new Set(this.lines.map(l => l.run)).size > 1, several = this.curve.series.length > 1;
    const chips = this.lines.map((line, i) => {
      const name = [many ? line.run.name : null, several || !many ? line.name : null].filter(Boolean).join(' ');
      const swatch = el('span', { class: 'swatch' + (line.dash ? ' dashed' : '') });
      swatch.style.borderColor = this.curve.stack ? cssColor('--series-' + i % 8) : runColor(line.run);
      return el('span', { class: 'chip' }, swatch, name + ' ', el('b', {}, format(this.valueAt(line, x))));
    });
    this.legend.replaceChildren(...chips, el('span', { class: 'at dim' }, x === null ? '' : this.xText(x)));
  }

  xText(x) { return page.axis === 'step' ? 'step ' + x : page.axis === 'time' ? format(x) + ' min' : format(x) + ' tokens'; }

  /* --- selection: by mouse, by keyboard, in all pictures of the panel at once --- */

  select(x, from) {
    this.showValues(x);
    if (from) {
      const row = this.graph ? this.graph.getRowForX(x) : null;
      if (row !== null) this.graph.setSelection(row);
      return;
    }
    for (const other of page.charts) if (other !== this && other.graph && other.isOpen()) other.select(x, this);
  }

  unselect(from) {
    if (this.lines) this.showValues(null);
    if (this.graph && from) this.graph.clearSelection();
    if (!from) for (const other of page.charts) if (other !== this && other.graph && other.isOpen()) other.unselect(this);
  }

  isOpen() { return this.box.offsetParent !== null; }

  onKey(event) {
    if (!this.graph) return;
    const last = this.table.length - 1, now = this.graph.getSelection();
    const jump = event.shiftKey ? 10 : 1;
    const to = { ArrowLeft: now < 0 ? last : now - jump, ArrowRight: now < 0 ? 0 : now + jump, Home: 0, End: last }[event.key];
    if (event.key === 'Escape') { this.graph.clearSelection(); this.unselect(); this.graph.resetZoom(); }
    if (to === undefined) return;
    event.preventDefault();
    const row = Math.max(0, Math.min(last, to));
    this.graph.setSelection(row);
    this.select(this.table[row][0]);
  }

  /* --- alarms: lines where they rose, in the picture of their metric --- */

  alarms() {
    const found = [];
    for (const run of this.runs)
      for (const alarm of run.shown ? run.alarms : [])
        if (this.curve.series.includes(alarm.metric)) found.push({ run, alarm });
    return found;
  }

  drawAlarms(context, area, g) {
    for (const { run, alarm } of this.alarms()) {
      const row = run.columns.step ? run.columns.step.findIndex(s => s >= alarm.step) : -1;
      const x = g.toDomXCoord(row < 0 ? alarm.step : position(run, row));
      context.save();
      context.strokeStyle = context.fillStyle = cssColor(alarm.severity === 'stop' ? '--stop' : '--warn');
      context.lineWidth = 1.5;
      context.beginPath();
      context.moveTo(x, area.y);
      context.lineTo(x, area.y + area.h);
      context.stroke();
      if (isNumber(alarm.limit)) {
        const y = g.toDomYCoord(alarm.limit);
        context.setLineDash([4, 4]);
        context.beginPath();
        context.moveTo(area.x, y);
        context.lineTo(area.x + area.w, y);
        context.stroke();
      }
      context.font = '11px sans-serif';
      context.fillText(alarm.id || '!', Math.min(x + 3, area.x + area.w - 18), area.y + 11);
      context.restore();
    }
  }

  showAlarms() {
    const first = new Map();
    for (const { alarm } of this.alarms()) if (!first.has(alarm.id)) first.set(alarm.id, alarm);
    this.alarmBox.replaceChildren(...[...first.values()].map(alarm =>
      el('span', { class: 'badge ' + (alarm.severity === 'stop' ? 'stop' : 'warn') }, `${alarm.id} ${alarm.name}, step ${alarm.step}`)));
  }
}

/* Curves are made when they come into sight: a page of a hundred opens at once. */
const sight = new IntersectionObserver(entries => {
  for (const entry of entries) {
    const chart = page.charts.find(c => c.box === entry.target);
    if (!chart || !entry.isIntersecting) continue;
    if (chart.visible === false) { chart.visible = true; chart.draw(); }
  }
}, { rootMargin: '300px' });

const sizes = new ResizeObserver(entries => requestAnimationFrame(() => {
  for (const entry of entries) {
    const chart = page.charts.find(c => c.box === entry.target);
    if (chart && chart.graph && chart.isOpen()) chart.graph.resize();
  }
}));

function addChart(curve, runs) {
  const chart = new Chart(curve, runs);
  chart.visible = false;
  page.charts.push(chart);
  chart.draw();
  sight.observe(chart.box);
  sizes.observe(chart.box);
  return chart.figure;
}

function drawCharts() { for (const chart of page.charts) chart.draw(); }
