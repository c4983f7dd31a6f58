/* live.js - the page of a run that goes on: asks once a second for what is new. */
'use strict';

async function fetchJson(address) {
  const response = await fetch(address, { cache: 'no-store' });
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  return response.json();
}

/* The rows behind what the page has; true when all must be drawn from the beginning. */
async function followRun(run, index) {
  const at = run.at, news = await fetchJson(`tail?run=${index}&metrics=${at.metrics}&samples=${at.samples}&alarms=${at.alarms}`);
  if (news.reset || news.signature !== page.signature) return true;
  news.metrics.rows.forEach(row => appendRow(run, row));
  run.samples.push(...news.samples.rows);
  run.alarms.push(...news.alarms.rows);
  run.at = { metrics: news.metrics.at, samples: news.samples.at, alarms: news.alarms.at };
  run.changed = news.metrics.rows.length + news.alarms.rows.length > 0;
  run.told = news.samples.rows.length + news.alarms.rows.length > 0;
  return run.n > 30000; // the server thins long logs
}

async function follow() {
  let again = false;
  for (let i = 0; i < page.runs.length && !again; i++)
    if (page.runs[i].state === 'running' || i === page.runs.length - 1) again = await followRun(page.runs[i], i);
  if (again) await loadAll();
  else refresh();
}

/* New points into the curves; what else changed is drawn anew. */
function refresh() {
  if (page.runs.some(run => run.told)) { showTab(page.tab); return; }
  for (const chart of page.charts) if (chart.runs.some(run => run.changed) && chart.isOpen()) chart.draw();
  for (const run of page.runs) run.changed = run.told = false;
}

async function loadAll() {
  const data = await fetchJson('data.json'), shown = new Map(page.runs.map(run => [run.dir, run.shown]));
  page.signature = data.signature;
  takeData(data);
  for (const run of page.runs) if (shown.has(run.dir)) run.shown = shown.get(run.dir);
  build();
}

function say(text, className) {
  const status = byId('status');
  if (status.textContent !== text) status.textContent = text;
  status.className = className;
}

function liveText() {
  const going = page.runs.filter(run => run.state === 'running');
  return going.length ? `live: ${going.map(run => `${run.name} at step ${lastOf(run, 'step') ?? 0}`).join(', ')}` : 'live: no run is going on';
}

async function live() {
  let pause = 1000;
  try {
    await (page.runs.length ? follow() : loadAll());
    say(liveText(), 'on');
  } catch (error) {
    say(`not connected (${error.message}); trying again`, 'off');
    pause = 3000;
  }
  setTimeout(live, document.hidden ? 5000 : pause);
}
