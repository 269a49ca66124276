"""The page's style sheet and its one script. Colours are the variables of `style.COLOURS`."""

CSS = """
:root { --sunk: color-mix(in srgb, var(--ink) 5%, var(--paper)); }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body {
  margin: 0 auto; padding: 2.5rem 1.25rem 4rem; max-width: 58rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  font-variant-numeric: tabular-nums;
}
h1 { margin: 0; font-size: clamp(1.6rem, 5vw, 2.2rem); line-height: 1.15; letter-spacing: -0.015em;
  overflow-wrap: anywhere; }
h2 { margin: 3.25rem 0 0.9rem; padding-top: 0.9rem; border-top: 1px solid var(--line);
  font-size: 1.25rem; letter-spacing: -0.01em; }
p { margin: 0.7rem 0; max-width: 44rem; }
.kind { margin: 0 0 0.2rem; color: var(--muted); font-size: 0.8rem; font-weight: 600;
  letter-spacing: 0.08em; text-transform: uppercase; }
.subtitle { margin-top: 0.35rem; color: var(--muted); }
.headline { margin: 1.6rem 0; font-size: clamp(1.1rem, 3vw, 1.35rem); line-height: 1.45; }
.headline strong { font-weight: 700; white-space: nowrap; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr));
  gap: 1rem 1.5rem; margin: 1.8rem 0; }
.facts div { display: flex; flex-direction: column; }
.facts dd { margin: 0; font-size: 1.6rem; font-weight: 650; line-height: 1.2;
  letter-spacing: -0.02em; }
.facts dt { order: 2; color: var(--muted); font-size: 0.82rem; }
.notice { margin: 0.6rem 0; padding: 0.55rem 0.9rem; border-left: 4px solid var(--c4);
  border-radius: 0 6px 6px 0; background: var(--sunk); }
nav { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin-top: 1.6rem; font-size: 0.9rem; }
a { color: var(--c0); text-underline-offset: 0.2em; }
nav a { text-decoration: none; }
nav a:hover, nav a:focus-visible { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--c0); outline-offset: 2px; border-radius: 3px; }
figure { margin: 1.2rem 0 2rem; }
figure { max-width: 36rem; }
figure svg { display: block; width: 100%; min-width: 20rem; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figcaption, .caption { color: var(--muted); font-size: 0.88rem; line-height: 1.45; }
figcaption { margin-top: 0.5rem; max-width: 44rem; }
.scroll { overflow-x: auto; }
.caption { margin: 1.6rem 0 0.6rem; }
div.scroll:has(table) { margin-bottom: 1.6rem; }
table { min-width: min(100%, 32rem); border-collapse: separate; border-spacing: 0;
  font-size: 0.9rem; }
th, td { padding: 0.42rem 0.7rem; text-align: left; white-space: nowrap;
  vertical-align: baseline; }
th:first-child, td:first-child { padding-left: 0; }
th:last-child, td:last-child { padding-right: 0; }
.num { text-align: right; }
.num small { display: block; color: var(--muted); font-size: 0.82em; line-height: 1.2; }
td.long { min-width: 15rem; white-space: normal; overflow-wrap: anywhere; }
thead th { border-bottom: 1.5px solid var(--muted); vertical-align: bottom;
  white-space: normal; }
th:first-child { position: sticky; left: 0; background: var(--paper); }
tbody th { font-weight: 500; }
tbody tr + tr > * { border-top: 1px solid var(--line); }
tbody tr:hover > * { background: var(--sunk); }
thead button { padding: 0; border: 0; background: none; color: var(--muted); font: inherit;
  font-size: 0.82rem; font-weight: 600; text-align: inherit; white-space: normal; cursor: pointer; }
thead button:hover { color: var(--ink); }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
code { font: 0.88em ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
td code { display: inline-block; max-width: 12ch; overflow: hidden; text-overflow: ellipsis;
  vertical-align: bottom; user-select: all; }
pre { margin: 0.8rem 0; padding: 0.8rem 1rem; overflow-x: auto; border-radius: 8px;
  background: var(--sunk); line-height: 1.45; }
details { margin: 0.7rem 0; }
summary { padding: 0.2rem 0; cursor: pointer; font-weight: 500; overflow-wrap: anywhere; }
@media (max-width: 40rem) { body { padding-top: 1.5rem; } h2 { margin-top: 2.4rem; } }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav, thead button::after { display: none; }
  figure, tr, .facts { break-inside: avoid; }
  h2 { break-after: avoid; }
  figure svg { min-width: 0; }
  .scroll { overflow: visible; }
  table { font-size: 7.5pt; }
  th, td { padding: 0.25rem 0.35rem; white-space: normal; }
  thead button { font-size: inherit; }
  td code { max-width: 8ch; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
}
"""

SORT_JS = """
for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.type = "button";
  button.append(...head.childNodes);
  head.append(button);
  button.addEventListener("click", () => {
    const table = head.closest("table"), body = table.tBodies[0];
    const down = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down === 1 ? "ascending" : "descending");
    const number = head.classList.contains("num"), column = head.cellIndex;
    const value = row => {
      const cell = row.cells[column];
      return number ? parseFloat(cell.dataset.value ?? "NaN") : cell.textContent;
    };
    const order = (a, b) => {
      const x = value(a), y = value(b);
      if (!number) return down * x.localeCompare(y, undefined, {numeric: true});
      return Number.isNaN(x) - Number.isNaN(y) || down * (x - y);
    };
    body.append(...[...body.rows].sort(order));
  });
}
"""
