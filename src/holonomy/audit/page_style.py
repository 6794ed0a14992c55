"""Colours and layout of pages: one style sheet, in light and in dark."""

from __future__ import annotations

KINDS_LIGHT = ("#0b62a4", "#c2410c", "#15803d", "#7c3aed", "#b91c7e", "#7a6a00", "#0e7490", "#4b5563")
KINDS_DARK = ("#6cb6ff", "#ff9d5c", "#5fd38a", "#c4a1ff", "#ff8ac4", "#e0c846", "#5fd5e8", "#a9b4c2")
"""Of series that are kinds of things."""
SCALE_LIGHT = (
    "#a3bcd6",
    "#6ca5cb",
    "#3f8bbd",
    "#2a7099",
    "#3f569c",
    "#5b3d9e",
    "#7d2b8c",
    "#9d1c7c",
    "#b01d5c",
    "#c01f3c",
)
SCALE_DARK = (
    "#3d5570",
    "#476f96",
    "#4f86b8",
    "#53a0c1",
    "#5eb9bd",
    "#74cc9b",
    "#9fd478",
    "#dcd450",
    "#f3b94f",
    "#ff9b54",
)
"""Of series that are steps of a scale: the first ones, which have most points, step back."""


def _variables(kinds: tuple[str, ...], scale: tuple[str, ...]) -> str:
    named = [*((f"k{n}", c) for n, c in enumerate(kinds)), *((f"q{n}", c) for n, c in enumerate(scale))]
    return "".join(f"--{name}:{colour};" for name, colour in named)


STYLE = (
    f"""
:root{{color-scheme:light dark;--paper:#fff;--ink:#1c2229;--soft:#59636e;--rule:#d5dbe1;--panel:#f5f7f9;--link:#0b57a4;
--good:#126b34;--bad:#b3261e;--warn:#7a5200;{_variables(KINDS_LIGHT, SCALE_LIGHT)}}}
@media (prefers-color-scheme:dark){{:root{{--paper:#14181d;--ink:#e4e8ec;--soft:#a0aab4;--rule:#343c45;--panel:#1c2228;
--link:#7cb8ff;--good:#6fd694;--bad:#ff9087;--warn:#efc15d;{_variables(KINDS_DARK, SCALE_DARK)}}}}}
"""
    + """
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;text-size-adjust:100%}
body{margin:0 auto;max-width:1240px;padding:1rem clamp(.75rem,2.5vw,2rem) 3rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
h1{font-size:1.6rem;line-height:1.2;margin:.5rem 0;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2rem 0 .75rem;padding-bottom:.25rem;border-bottom:1px solid var(--rule)}
header p{margin:.25rem 0 1rem;color:var(--soft)}
p{overflow-wrap:anywhere;max-width:75ch}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1rem}
a{color:var(--link)}
a:focus-visible,summary:focus-visible,.scroll:focus-visible{outline:2px solid var(--link);outline-offset:2px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,350px),1fr));gap:1rem;align-items:start}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.875rem;margin:.5rem 0}
caption{text-align:left;font-weight:600;padding:.25rem 0}
th,td{padding:.25rem .75rem .25rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--rule);
unicode-bidi:isolate;overflow-wrap:anywhere}
tbody th,td:not(.n){min-width:6ch}
th{font-weight:600}
tbody th{font-weight:400}
thead th{color:var(--soft)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
pre{font:.8125rem/1.45 ui-monospace,SFMono-Regular,Menlo,Consolas,"DejaVu Sans Mono",monospace;background:var(--panel);
padding:.75rem;border-radius:.375rem;white-space:pre-wrap;overflow-wrap:anywhere;unicode-bidi:isolate;max-height:30rem;
overflow-y:auto;margin:.5rem 0}
details{margin:.5rem 0}
summary{cursor:pointer;color:var(--link)}
figure{margin:0;padding:.75rem;border:1px solid var(--rule);border-radius:.375rem;min-width:0}
figure h3{font-size:1rem;margin:0 0 .25rem}
figcaption{font-size:.8125rem;color:var(--soft);margin-top:.25rem}
figcaption p{margin:.25rem 0}
figure details{font-size:.8125rem}
figure .scroll{max-height:20rem;overflow-y:auto}
svg{display:block;width:100%;height:auto}
svg text{font:11px system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;fill:var(--soft)}
.axis{stroke:var(--rule);fill:none;vector-effect:non-scaling-stroke}
.line{fill:none;stroke:var(--c);stroke-width:1.75;stroke-linejoin:round;stroke-linecap:round}
.point{fill:none;stroke:var(--c);stroke-linecap:round}
.bar{fill:var(--c)}
.legend{display:flex;flex-wrap:wrap;gap:.125rem .75rem;list-style:none;margin:.25rem 0;padding:0;font-size:.8125rem}
.legend li{display:flex;align-items:center;gap:.375rem}
.legend svg{width:1.5rem;flex:none}
.badge{display:inline-block;padding:0 .5rem;border:1px solid currentColor;border-radius:1rem;font-size:.8125rem}
.good{color:var(--good)}.bad{color:var(--bad)}.warn{color:var(--warn)}.plain{color:var(--soft)}
.notice{border-left:3px solid currentColor;padding-left:.75rem}
"""
    + "".join(f".k{n}{{--c:var(--k{n})}}" for n in range(len(KINDS_LIGHT)))
    + "".join(f".q{n}{{--c:var(--q{n})}}" for n in range(len(SCALE_LIGHT)))
)
