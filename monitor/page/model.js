/* model.js - the runs as the page keeps them, and small helpers for everybody else.
 * A run: {name, verb, state, recipe, result, samples, alarms, evals, n, columns: {metric: [value|null, ...]}}. */
'use strict';

const page = { title: '', runs: [], charts: [], smoothing: 0.6, axis: 'step', log: false, live: false };
window.rlhf = page; // for the browser's console and for tests

/* el('p', {class: 'dim', onclick: f}, 'text', child, ...): text is always text, never markup. */
function el(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter(c => c !== null && c !== undefined).map(c => c instanceof Node ? c : String(c)));
  return node;
}

const byId = id => document.getElementById(id);

function isNumber(x) { return typeof x === 'number' && Number.isFinite(x); }

function format(x, digits = 4) {
  if (!isNumber(x)) return '–';
  if (x === 0) return '0';
  const size = Math.abs(x);
  if (Number.isInteger(x) && size < 1e6) return String(x);
  if (size >= 1e6) return (x / (size >= 1e9 ? 1e9 : 1e6)).toPrecision(3) + (size >= 1e9 ? ' G' : ' M');
  if (size < 1e-3) return x.toExponential(2).replace('e-', 'e−').replace(/^-/, '−');
  return String(Number(x.toPrecision(digits))).replace(/^-/, '−');
}

function duration(seconds) {
  if (!isNumber(seconds)) return '–';
  const s = Math.round(seconds);
  if (s < 60) return s + ' s';
  if (s < 3600) return Math.floor(s / 60) + ' min ' + s % 60 + ' s';
  return Math.floor(s / 3600) + ' h ' + Math.floor(s % 3600 / 60) + ' min';
}

/* --- colours: eight that differ for every kind of sight, from the style sheet --- */

function cssColor(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
function runColor(run) { return cssColor('--series-' + run.color % 8); }
function faint(color, alpha) {
  const v = parseInt(color.slice(1), 16);
  return `rgba(${v >> 16 & 255},${v >> 8 & 255},${v & 255},${alpha})`;
}

/* --- columns --- */

function expand(column, n) {
  if (Array.isArray(column)) return column;
  const out = new Array(n).fill(null);
  column.at.forEach((row, i) => { out[row] = column.v[i]; });
  return out;
}

function runFrom(raw) {
  const run = Object.assign({}, raw, { n: raw.rows, columns: {}, shown: true, color: 0 });
  for (const [name, column] of Object.entries(raw.metrics)) run.columns[name] = expand(column, raw.rows);
  delete run.metrics;
  return run;
}

/* A row of metrics.jsonl goes behind the others. */
function appendRow(run, row) {
  for (const [name, value] of Object.entries(row)) {
    if (!(value === null || typeof value === 'number')) continue;
    if (!run.columns[name]) run.columns[name] = new Array(run.n).fill(null);
    run.columns[name].push(value);
  }
  run.n++;
  for (const column of Object.values(run.columns)) while (column.length < run.n) column.push(null);
}

function has(run, name) { return name in run.columns && run.columns[name].some(isNumber); }

function lastOf(run, name) {
  const column = run.columns[name] || [];
  for (let i = column.length - 1; i >= 0; i--) if (isNumber(column[i])) return column[i];
  return null;
}

function firstOf(run, name) {
  const found = (run.columns[name] || []).find(isNumber);
  return found === undefined ? null : found;
}

/* Where a row stands on the axis that the reader chose. */
function position(run, row) {
  if (page.axis === 'tokens') return (run.columns.tokens || [])[row];
  if (page.axis === 'time') return (run.columns.wall_time[row] - run.columns.wall_time[0]) / 60;
  return run.columns.step[row];
}

/* Exponential moving averages from both ends, without a bias towards either; the mean of the two does not lag
 * behind. Gaps stay gaps. Long runs are averaged over more steps than short ones: the amount is what a hundred
 * points of a picture need. */
function smooth(column, amount) {
  const weight = amount ** Math.min(1, 100 / column.filter(isNumber).length);
  const average = values => {
    let sum = 0, norm = 0;
    return values.map(v => {
      if (!isNumber(v)) return v;
      sum = weight * sum + (1 - weight) * v;
      norm = weight * norm + (1 - weight);
      return sum / norm;
    });
  };
  const forwards = average(column), backwards = average([...column].reverse()).reverse();
  return forwards.map((v, i) => (isNumber(v) ? 0.5 * (v + backwards[i]) : v));
}

/* {"ppo":{"clip":.2}} -> {"ppo.clip": .2} */
function flatten(object, prefix = '', out = {}) {
  for (const [key, value] of Object.entries(object || {})) {
    if (value && typeof value === 'object' && !Array.isArray(value)) flatten(value, prefix + key + '.', out);
    else out[prefix + key] = value;
  }
  return out;
}

function verbs() { return [...new Set(page.runs.map(run => run.verb))]; }
const VERB_NAMES = { sft: 'SFT', reward: 'Reward model', ppo: 'PPO', dpo: 'DPO', eval: 'Evaluation', '': 'Runs' };
function verbName(verb) { return VERB_NAMES[verb] || verb; }
