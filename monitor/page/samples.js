/* samples.js - what the models wrote: the same prompt over time, with scores, and token by token where the
 * run kept that. Everything here is text of models: it is only ever set as text. */
'use strict';

function promptText(sample) {
  const p = sample.prompt;
  if (typeof p === 'string') return p;
  return Array.isArray(p) ? p.map(m => `${m.role}: ${typeof m.content === 'string' ? m.content : JSON.stringify(m.content)}`).join('\n') : JSON.stringify(p);
}

/* Blue below zero, vermilion above, white at zero. */
function tint(v, most) {
  const strength = Math.min(1, Math.abs(v) / (most || 1));
  return faint(cssColor(v < 0 ? '--series-0' : '--series-1'), 0.75 * strength);
}

function tokenSpans(tokens, by) {
  const values = tokens[by] || [], most = Math.max(1e-9, ...values.filter(isNumber).map(Math.abs));
  const shown = Object.keys(tokens).filter(k => k !== 'text' && Array.isArray(tokens[k]));
  return tokens.text.map((text, i) => {
    const span = el('span', { class: 'token', title: shown.map(k => `${k} ${format(tokens[k][i])}`).join(', ') }, text);
    if (isNumber(values[i])) span.style.backgroundColor = tint(values[i], most);
    return span;
  });
}

function answer(sample, label, by) {
  const facts = [];
  for (const key of ['score', 'gold', 'kl', 'length']) if (isNumber(sample[key])) facts.push(el('span', {}, el('span', { class: 'dim' }, key + ' '), format(sample[key], 3)));
  if (sample.stop) facts.push(el('span', { class: sample.stop === 'eos' ? 'dim' : 'badge warn' }, sample.stop === 'eos' ? 'ended' : 'cut off: ' + sample.stop));
  if (sample.mode) facts.push(el('span', { class: 'dim' }, sample.mode));
  for (const [name, v] of Object.entries(sample.parts || {})) if (isNumber(v)) facts.push(el('span', {}, el('span', { class: 'dim' }, name + ' '), format(v, 3)));
  const tokens = sample.tokens && Array.isArray(sample.tokens.text) ? sample.tokens : null;
  return el('article', { class: 'answer' }, el('h4', {}, label), el('p', { class: 'facts' }, facts),
    el('p', { class: 'text' }, tokens && by ? tokenSpans(tokens, by) : String(sample.completion ?? '')));
}

const browser = { key: null, by: '', find: '' };

function questions() {
  const out = new Map();
  for (const run of page.runs) {
    if (!run.shown) continue;
    for (const sample of run.samples) {
      const key = promptText(sample);
      if (!out.has(key)) out.set(key, { key, id: sample.prompt_id, answers: [] });
      out.get(key).answers.push({ run, sample });
    }
  }
  return [...out.values()];
}

function tokenKinds() {
  const kinds = new Set();
  for (const run of page.runs) for (const s of run.samples)
    for (const k of Object.keys(s.tokens || {})) if (k !== 'text' && Array.isArray(s.tokens[k])) kinds.add(k);
  return [...kinds];
}

function drawAnswers(box, question) {
  const byRun = new Map();
  for (const a of question.answers) byRun.set(a.run, [...(byRun.get(a.run) || []), a.sample]);
  const parts = [el('blockquote', { class: 'prompt' }, question.key)];
  for (const [run, samples] of byRun) {
    const title = el('h3', {}, el('span', { class: 'swatch' }), ' ' + run.name);
    title.firstChild.style.borderColor = runColor(run);
    parts.push(title, ...samples.map(s => answer(s, 'step ' + s.step, browser.by)));
  }
  box.replaceChildren(...parts);
}

function samplesPanel() {
  const list = el('div', { class: 'prompts', role: 'listbox', 'aria-label': 'Prompts', tabindex: '-1' });
  const box = el('div', { class: 'answers', 'aria-live': 'polite' });
  const choose = question => {
    browser.key = question.key;
    for (const b of list.children) b.setAttribute('aria-selected', String(b.dataset.key === question.key));
    drawAnswers(box, question);
  };
  const fill = () => {
    const found = questions().filter(q => !browser.find || (q.key + q.answers.map(a => a.sample.completion).join(' ')).toLowerCase().includes(browser.find));
    list.replaceChildren(...found.slice(0, 500).map(q => el('button', { role: 'option', 'data-key': q.key, onclick: () => choose(q) }, el('span', {}, q.key))));
    const now = found.find(q => q.key === browser.key) || found[0];
    if (now) choose(now); else box.replaceChildren(el('p', { class: 'note' }, 'Nothing found.'));
  };
  const kinds = tokenKinds();
  if (!kinds.includes(browser.by)) browser.by = kinds.includes('kl') ? 'kl' : kinds[0] || '';
  const by = kinds.length ? el('label', {}, 'Colour tokens by ', el('select', { onchange: e => { browser.by = e.target.value; fill(); } },
    [...kinds, ''].map(k => el('option', { value: k, selected: k === browser.by }, k || 'nothing')))) : null;
  list.addEventListener('keydown', e => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[e.key], now = [...list.children].indexOf(document.activeElement);
    if (!step || !list.children[now + step]) return;
    e.preventDefault();
    list.children[now + step].focus();
    list.children[now + step].click();
  });
  fill();
  const left = page.runs.reduce((n, run) => n + (run.samples_left_out || 0), 0);
  return [el('div', { class: 'bar tools' }, el('label', {}, 'Find ', el('input', { type: 'search', value: browser.find,
    oninput: e => { browser.find = e.target.value.toLowerCase(); fill(); } })), by,
    left ? el('span', { class: 'note' }, `${left} older samples are left out.`) : null), el('div', { class: 'browser' }, list, box)];
}
