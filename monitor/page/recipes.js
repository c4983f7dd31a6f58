/* recipes.js - every setting as it was resolved, and where runs of a kind differ. */
'use strict';

function settingText(v) { return v === undefined ? '–' : typeof v === 'string' ? v : JSON.stringify(v); }

function recipeTable(verb) {
  const runs = page.runs.filter(run => run.verb === verb && run.recipe), flat = runs.map(run => flatten(run.recipe));
  const keys = [...new Set(flat.flatMap(Object.keys))];
  const rows = keys.map(key => {
    const values = flat.map(f => settingText(f[key])), differs = values.some(v => v !== values[0]);
    return el('tr', { class: differs ? 'differs' : '' }, el('th', { scope: 'row' }, key), values.map(v => el('td', {}, v)));
  });
  const table = el('table', { class: 'recipe' }, el('thead', {}, el('tr', {}, el('th', { scope: 'col' }, 'setting'), runs.map(run => el('th', { scope: 'col' }, run.name)))), el('tbody', {}, rows));
  const section = el('section', { class: runs.length > 1 ? 'many' : '' }, heading(verbName(verb)), el('div', { class: 'scroll' }, table));
  const differing = rows.filter(row => row.classList.contains('differs')).length;
  if (runs.length > 1) section.insertBefore(el('p', { class: 'dim' }, `${differing} of ${keys.length} settings differ.`), section.children[1]);
  return runs.length ? section : null;
}

function recipesPanel() {
  const body = el('div', {}, verbs().map(recipeTable).filter(Boolean));
  const filter = text => {
    for (const row of body.querySelectorAll('tbody tr')) row.hidden = !row.textContent.toLowerCase().includes(text);
  };
  return [el('div', { class: 'bar tools' }, el('label', {}, 'Find ', el('input', { type: 'search', oninput: e => filter(e.target.value.toLowerCase()) })),
    el('label', {}, el('input', { type: 'checkbox', onchange: e => body.classList.toggle('only-differences', e.target.checked) }), ' Only what differs')), body];
}
