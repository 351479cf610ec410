"""The style sheet of every page.

Two hues carry meaning everywhere: blue is the truth, orange is the model. They differ in lightness
as well, so they stay apart for colour-blind readers and in print.
"""

CSS = """
:root {
  color-scheme: light dark;
  --paper: #faf9f6; --card: #ffffff; --ink: #1c2026; --soft: #646b75; --line: #e4e1da;
  --true: #2368a8; --true-wash: #dce8f3; --model: #c2570c; --model-wash: #fbe3cf;
  --model-faint: #fdf3ea; --shadow: 0 1px 2px rgb(28 32 38 / 5%), 0 6px 24px rgb(28 32 38 / 5%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14161a; --card: #1c1f25; --ink: #e7e5df; --soft: #989fa9; --line: #31353d;
    --true: #74b3ec; --true-wash: #20374c; --model: #f0a05c; --model-wash: #55391f;
    --model-faint: #2a241f; --shadow: none;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: break-word;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main { max-width: 1000px; margin: 0 auto; padding: 48px 24px 64px; }
h1 { font-size: 34px; line-height: 1.2; letter-spacing: -0.02em; font-weight: 650; margin: 0; }
h2 { font-size: 20px; letter-spacing: -0.01em; font-weight: 650; margin: 56px 0 4px; }
h3 { font-size: 16px; line-height: 1.4; font-weight: 600; margin: 0; }
p { margin: 0; max-width: 68ch; text-wrap: pretty; }
h1, h3 { text-wrap: balance; }
.eyebrow { color: var(--soft); font-size: 13px; letter-spacing: 0.02em; margin-bottom: 10px; }
.lead { color: var(--soft); font-size: 17px; margin-top: 12px; }
.why { color: var(--soft); font-size: 14px; margin-bottom: 18px; }

.figures {
  display: grid; grid-template-columns: repeat(3, auto) 1fr; gap: 12px 56px; margin-top: 36px;
}
.figure b {
  display: block; font-size: 60px; line-height: 1; font-weight: 600; letter-spacing: -0.035em;
}
.figure:first-child b { color: var(--model); }
.figure b small { font-size: 22px; font-weight: 500; letter-spacing: 0; color: var(--soft); }
.figure span {
  display: block; color: var(--soft); font-size: 14px; line-height: 1.35; margin-top: 10px;
}

table { border-collapse: collapse; width: 100%; font-size: 15px; line-height: 1.35; }
th { font-weight: 500; text-align: left; }
thead th { color: var(--soft); font-size: 13px; padding: 0 0 8px; vertical-align: bottom; }
tbody th, td { border-top: 1px solid var(--line); padding: 9px 0; }
td, thead th:not(:first-child) { text-align: right; padding-left: 16px; }
td.measure { width: 44%; text-align: left; padding-left: 24px; }
thead th.measure { text-align: left; padding-left: 24px; }
.wide { overflow-x: auto; }
.wide td, .wide th { white-space: nowrap; }
.measure div { display: grid; grid-template-columns: 1fr 2.3em; gap: 12px; align-items: center; }
.measure span { white-space: nowrap; }
.spread .measure div { grid-template-columns: 1fr 5.6em; }
.measure i { display: block; height: 8px; border-radius: 2px; background: var(--line); }
.measure i i { background: var(--soft); opacity: 0.55; min-width: 1px; }
.model .measure i i, .part .measure i i { background: var(--model); opacity: 1; }
tr.model th, tr.model td { font-weight: 650; }
td small, th small { color: var(--soft); font-weight: 400; font-size: 13px; }

.charts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 28px 36px;
}
figure { margin: 0; min-width: 0; }
figcaption { font-size: 14px; font-weight: 600; margin-bottom: 6px; }
figcaption small { font-size: 13px; font-weight: 400; color: var(--soft); }
table + figure { max-width: 480px; margin-top: 32px; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { font-size: 11px; fill: var(--soft); }
svg text.strong { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--line); stroke-width: 1; fill: none; shape-rendering: crispEdges; }
.curve {
  stroke: var(--model); stroke-width: 1.5; fill: none; stroke-linejoin: round;
  vector-effect: non-scaling-stroke;
}
.band { fill: var(--model-wash); }
.dot { fill: var(--model); }
.columns rect { fill: var(--model); }
.columns .mean { stroke: var(--ink); stroke-width: 1; }

.answer {
  background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  box-shadow: var(--shadow); padding: 22px 24px 16px; margin-top: 20px;
}
.answer header {
  display: flex; gap: 16px; justify-content: space-between; align-items: baseline;
  color: var(--soft); font-size: 13px; margin-bottom: 4px;
}
.score { flex: none; margin-left: auto; color: var(--ink); font-size: 16px; font-weight: 650; }
.score small { font-weight: 400; font-size: 13px; color: var(--soft); margin-right: 6px; }
.said { margin-top: 6px; }
mark {
  background: var(--model-wash); color: inherit; border-radius: 4px; padding: 1px 5px;
  font-weight: 600; white-space: nowrap;
}
.film { display: flex; gap: 2px; border-radius: 8px; overflow: hidden; margin: 16px 0 10px; }
.film img { flex: 1 1 0; min-width: 0; height: 54px; object-fit: cover; display: block; }
.row { position: relative; height: 20px; margin-top: 2px; font-size: 12px; line-height: 20px; }
.row.told { margin-top: 18px; }
.bar { position: absolute; top: 4px; bottom: 4px; min-width: 3px; border-radius: 3px; }
.true .bar { background: var(--true); } .true { color: var(--true); }
.model .bar { background: var(--model); } .row.model { color: var(--model); }
.tag { position: absolute; top: 0; white-space: nowrap; font-weight: 550; }
.tag.after { padding-left: 7px; } .tag.before { padding-right: 7px; }
.tag.inside { top: 0; padding-left: 8px; color: var(--card); font-size: 11px; }
.tag.above { top: -16px; left: 0; }
.plot { position: relative; padding-top: 17px; margin-top: 4px; }
.plot span {
  position: absolute; top: 0; left: 0; font-size: 11px; line-height: 16px; color: var(--soft);
}
.plot svg {
  height: 58px; border-top: 1px dotted var(--line); border-bottom: 1px solid var(--soft);
}
.plot .within { fill: var(--model-faint); }
.plot .area { fill: var(--model-wash); }
.row + .axis { border-top: 1px solid var(--soft); margin-top: 6px; }
.axis { position: relative; height: 24px; font-size: 12px; color: var(--soft); }
.axis span { position: absolute; top: 5px; transform: translateX(-50%); white-space: nowrap; }
.axis span::before {
  content: ""; position: absolute; left: 50%; top: -5px; height: 4px;
  border-left: 1px solid var(--soft);
}
.axis span.first { transform: none; } .axis span.first::before { left: 0; }
.axis span.last { transform: translateX(-100%); }
.axis span.last::before { left: calc(100% - 1px); }

footer {
  margin-top: 64px; padding-top: 20px; border-top: 1px solid var(--line);
  color: var(--soft); font-size: 13px;
}
footer p + p, footer p + details, footer details + p { margin-top: 8px; }
summary { cursor: pointer; }
pre {
  overflow-x: auto; padding: 14px 16px; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); color: var(--ink);
  font: 12px/1.5 ui-monospace, Menlo, Consolas, monospace;
}

@media (max-width: 640px) {
  main { padding: 28px 16px 48px; }
  h1 { font-size: 26px; }
  h2 { margin-top: 44px; }
  .lead { font-size: 16px; }
  .figures { grid-template-columns: 1fr 1fr; gap: 24px; margin-top: 28px; }
  .figure:first-child { grid-column: 1 / -1; }
  .figure b { font-size: 42px; }
  .figure:first-child b { font-size: 68px; }
  table { font-size: 14px; }
  td, thead th:not(:first-child) { padding-left: 8px; }
  td.measure, thead th.measure { width: 28%; padding-left: 12px; }
  .measure div, .spread .measure div {
    display: flex; flex-direction: column-reverse; align-items: stretch; gap: 5px;
  }
  .answer { padding: 16px 14px 10px; margin-left: -4px; margin-right: -4px; }
  .film img { height: 46px; }
  .film img:nth-child(even) { display: none; }
}
@media print {
  body { background: none; }
  .answer, tr, figure { break-inside: avoid; }
  .answer { box-shadow: none; }
}
"""
