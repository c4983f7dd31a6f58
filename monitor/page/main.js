/* main.js - tabs, controls, and the beginning. */
'use strict';

function takeData(data) {
  page.title = data.title;
  page.runs = data.runs.map(runFrom);
  /* a colour for each run of a kind, so that overlaid ones differ; kinds begin at different colours */
  const count = new Map();
  page.runs.forEach(run => {
    const k = count.get(run.verb) || 0;
    count.set(run.verb, k + 1);
    run.color = verbs().indexOf(run.verb) + k;
  });
}

/* --- tabs --- */

function tabs() {
  const list = [['overview', 'Overview', overviewPanel]];
  for (const verb of verbs()) list.push(['runs-' + verb, verbName(verb), () => stagePanel(verb)]);
  if (page.runs.some(run => run.samples.length)) list.push(['samples', 'Samples', samplesPanel]);
  if (page.runs.some(run => run.recipe)) list.push(['recipes', 'Recipes', recipesPanel]);
  return list;
}

function showTab(id) {
  const list = tabs(), named = name => list.find(t => t[0] === name);
  const [own, , draw] = named(id) || named(page.tab) || list[0]; // #panels is no tab
  page.tab = own;
  for (const tab of byId('tabs').children) {
    const on = tab.id === 'tab-' + own;
    tab.setAttribute('aria-selected', String(on));
    tab.tabIndex = on ? 0 : -1;
  }
  sight.disconnect();
  sizes.disconnect();
  for (const chart of page.charts) chart.destroy();
  page.charts = [];
  for (const run of page.runs) run.changed = run.told = false;
  byId('controls').hidden = own === 'recipes';
  byId('curve-controls').hidden = own === 'samples';
  runToggles(own.startsWith('runs-') ? page.runs.filter(run => 'runs-' + run.verb === own) : page.runs);
  const panel = el('div', { role: 'tabpanel', id: 'panel', 'aria-labelledby': 'tab-' + own }, draw());
  byId('panels').replaceChildren(panel);
}

function openTab(verb) { goTo('runs-' + verb); byId('tab-runs-' + verb).focus(); }

function goTo(id) {
  if (location.hash === '#' + id) showTab(id);
  else location.hash = id;
  window.scrollTo(0, 0);
}

function tabKey(event) {
  const all = [...byId('tabs').children], now = all.indexOf(event.target);
  const to = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  const next = all[(to + all.length) % all.length];
  goTo(next.id.slice(4));
  next.focus();
}

/* --- controls --- */

function redraw() { showTab(page.tab); }

function runToggles(runs) {
  byId('runs').replaceChildren(...(runs.length < 2 ? [] : runs.map(run => {
    const swatch = el('span', { class: 'swatch' });
    swatch.style.borderColor = runColor(run);
    return el('label', { class: 'chip' }, el('input', { type: 'checkbox', checked: run.shown,
      onchange: e => { run.shown = e.target.checked; redraw(); } }), swatch, ' ' + run.name);
  })));
}

function wireControls() {
  byId('smoothing').addEventListener('input', e => {
    page.smoothing = Number(e.target.value);
    byId('smoothing-value').textContent = page.smoothing.toFixed(2);
    drawCharts();
  });
  byId('smoothing').addEventListener('change', redraw); // pictures, too
  byId('axis').addEventListener('change', e => { page.axis = e.target.value; redraw(); });
  byId('log').addEventListener('change', e => { page.log = e.target.checked; redraw(); });
  byId('controls').addEventListener('submit', e => e.preventDefault());
  matchMedia('(prefers-color-scheme: dark)').addEventListener('change', build);
  window.addEventListener('hashchange', () => showTab(location.hash.slice(1)));
}

/* --- everything from the data --- */

function build() {
  byId('title').textContent = page.title;
  byId('tabs').replaceChildren(...tabs().map(([id, name]) => el('button', { role: 'tab', id: 'tab-' + id, 'aria-controls': 'panel',
    'aria-selected': 'false', onclick: () => goTo(id), onkeydown: tabKey }, name)));
  showTab(page.tab || location.hash.slice(1));
}

function begin() {
  const data = JSON.parse(byId('data').textContent);
  wireControls();
  page.live = !!data.live;
  if (page.live) { say('connecting', 'off'); live(); return; }
  takeData(data);
  build();
}

begin();
