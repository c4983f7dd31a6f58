/* stage.js - the panels of curves: the overview of all runs, and one panel for each kind of run. */
'use strict';

function heading(text) { return el('h2', {}, text); }
function grid(...children) { return el('div', { class: 'grid' }, ...children); }

function stateBadge(run) { return el('span', { class: 'badge ' + run.state }, run.state); }

function figures(run) {
  return el('dl', { class: 'figures' }, figuresOf(run).map(([label, value]) => el('div', {}, el('dt', {}, label), el('dd', {}, value))));
}

function seconds(run) {
  const t = run.columns.wall_time;
  if (run.result && isNumber(run.result.seconds)) return run.result.seconds;
  return t && run.n > 1 ? t[run.n - 1] - t[0] : null;
}

function notes(run) {
  const out = [];
  if (run.group > 1) out.push(`${run.logged} steps were logged; ${run.group} of them are one point here, with the least and the greatest value kept.`);
  if (run.bad_rows) out.push(`${run.bad_rows} rows could not be read.`);
  if (run.trouble) out.push(run.trouble);
  return out.length ? el('p', { class: 'note' }, out.join(' ')) : null;
}

/* --- alarms --- */

function alarmRow(run, alarm) {
  const limit = isNumber(alarm.value) ? ` ${alarm.metric || ''} ${format(alarm.value)}${isNumber(alarm.limit) ? `, limit ${format(alarm.limit)}` : ''}.` : '';
  return el('li', { class: alarm.severity === 'stop' ? 'stop' : 'warn' },
    el('b', {}, `${alarm.id || ''} ${alarm.name || ''}`), ` ${run.name}, step ${alarm.step}.${limit} `, alarm.cause || '',
    alarm.setting ? el('span', {}, ' Setting: ', el('code', {}, alarm.setting), '.') : null);
}

/* One line per alarm and run: what rises every step is told once, with how often. */
function alarmList(runs) {
  const rows = [];
  for (const run of runs) {
    const seen = new Map();
    for (const alarm of run.alarms) {
      const key = [alarm.id, alarm.name, alarm.severity, alarm.cause].join(' ');
      if (seen.has(key)) seen.get(key).count++;
      else seen.set(key, { alarm, count: 1 });
    }
    for (const { alarm, count } of seen.values()) {
      const row = alarmRow(run, alarm);
      if (count > 1) row.append(el('span', { class: 'dim' }, ` ${count} times.`));
      rows.push(row);
    }
  }
  return rows.length ? el('section', { class: 'alarms', 'aria-label': 'Alarms' }, heading('Alarms'), el('ul', {}, rows)) : null;
}

/* --- panels --- */

function stagePanel(verb) {
  const runs = page.runs.filter(run => run.verb === verb), out = [];
  for (const run of runs)
    out.push(el('section', { class: 'summary' }, el('h2', {}, run.name, ' ', stateBadge(run), el('span', { class: 'dim small' }, ' ' + run.dir)), figures(run), notes(run)));
  out.push(alarmList(runs));
  const groups = curvesOf(runs), pictures = [frontier(runs), ...runs.flatMap(evaluationPictures)].filter(Boolean);
  const title = 'Held-out evaluation';
  if (pictures.length && !groups.some(group => group[0] === title)) groups.splice(1, 0, [title, []]);
  for (const [name, curves] of groups) {
    const cards = curves.map(curve => curve.path ? scorePath(runs) : addChart(curve, runs)).filter(Boolean);
    if (name === title) cards.push(...pictures);
    if (cards.length) out.push(el('section', {}, heading(name), grid(cards)));
  }
  if (!runs.some(run => run.n)) out.push(el('p', { class: 'note' }, 'No metrics were logged yet.'));
  return out.filter(Boolean);
}

function runsTable() {
  const head = ['run', 'state', 'steps', 'tokens', 'time', 'what came out'];
  const rows = page.runs.map(run => {
    const swatch = el('span', { class: 'swatch' });
    swatch.style.borderColor = runColor(run);
    const best = figuresOf(run).filter(([label]) => !/steps|seconds|tokens\/s|first|ties|before/.test(label)).slice(0, 4);
    return el('tr', {}, el('th', { scope: 'row' }, swatch, ' ', el('button', { class: 'link', onclick: () => openTab(run.verb) }, run.name)),
      el('td', {}, stateBadge(run)), el('td', {}, format(lastOf(run, 'step'))), el('td', {}, format(lastOf(run, 'tokens'))),
      el('td', {}, duration(seconds(run))), el('td', { class: 'wide' }, best.map(([label, value], i) => [i ? ' · ' : '', el('span', { class: 'dim' }, label + ' '), value])));
  });
  return el('div', { class: 'scroll' }, el('table', { class: 'runs' }, el('thead', {}, el('tr', {}, head.map(h => el('th', { scope: 'col' }, h)))), el('tbody', {}, rows)));
}

/* A few curves of each kind of run, those that are looked at first. */
const FIRST_CURVES = { sft: ['Loss'], reward: ['Loss', 'Accuracy'], ppo: ['Score', 'KL to the reference'], dpo: ['Loss', 'Margin'] };

function overviewPanel() {
  const out = [el('section', {}, heading('Runs'), runsTable()), alarmList(page.runs)], cards = [];
  const over = frontier(page.runs);
  if (over) cards.push(over);
  for (const verb of verbs()) {
    const runs = page.runs.filter(run => run.verb === verb), wanted = FIRST_CURVES[verb] || [];
    for (const [, curves] of curvesOf(runs))
      for (const curve of curves)
        if (!curve.path && wanted.includes(curve.title) && (verb !== 'dpo' || curve.title !== 'Margin' || curve.series[0].startsWith('rewards')))
          cards.push(addChart(Object.assign({}, curve, { title: `${verbName(verb)}: ${curve.title.replace(/^KL/, 'KL')}` }), runs));
  }
  if (cards.length) out.push(el('section', {}, heading('At a glance'), grid(cards)));
  const sample = sameQuestion();
  if (sample) out.push(el('section', {}, heading('One prompt, answered by each'), sample));
  return out.filter(Boolean);
}

/* The prompt that most runs answered, before and after. */
function sameQuestion() {
  const count = new Map();
  for (const run of page.runs) for (const s of run.samples) count.set(promptText(s), (count.get(promptText(s)) || 0) + 1);
  const [prompt, n] = [...count].reduce((best, now) => (now[1] > best[1] ? now : best), ['', 0]);
  if (n < 2) return null;
  const answers = [];
  let before = false;
  for (const run of page.runs) {
    const own = run.samples.filter(s => promptText(s) === prompt);
    if (!own.length) continue;
    if (own[0].step === 0 && !before) before = answers.push(answer(own[0], 'before training'));
    const last = own[own.length - 1];
    if (last.step) answers.push(answer(last, `${run.name}, step ${last.step}`));
  }
  return el('div', { class: 'card' }, el('blockquote', { class: 'prompt' }, prompt), answers);
}
