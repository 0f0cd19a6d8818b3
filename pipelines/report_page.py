"""The frame of the report: one HTML page that needs nothing but itself."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

MEASURE = re.compile(r"[\d.,]+ ?(B|kB|MB|GB|TB|s|%|min \d+ s|h \d+ min)?")
"""Text that is set like a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Html:
    """Text that is HTML already; anything else is escaped on its way into the page."""

    text: str
    right: bool = False
    """Set flush right in a table, as numbers are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One part of the page."""

    title: str
    body: str
    """HTML."""
    anchor: str
    """What links to it name."""

    def html(self) -> str:
        """The section with its heading."""
        return f"<section id='{self.anchor}'><h2>{escape(self.title)}</h2>{self.body}</section>"


def cell(value: object) -> str:
    """A table cell's content."""
    if isinstance(value, Html):
        return value.text
    if value is None:
        return "<span class='quiet'>&ndash;</span>"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(str(value))


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table; columns of numbers are flush right."""
    if not rows:
        return "<p class='quiet'>nothing here</p>"
    right = [any(_is_number(row[i]) for row in rows) for i in range(len(head))]

    def line(tag: str, row: Sequence[object]) -> str:
        cells = (
            f"<{tag}{' class=right' if right[i] else ''}>{cell(value) if tag == 'td' else escape(str(value))}</{tag}>"
            for i, value in enumerate(row)
        )
        return f"<tr>{''.join(cells)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return f"<div class='scroll'><table><thead>{line('th', head)}</thead><tbody>{body}</tbody></table></div>"


def _is_number(value: object) -> bool:
    if isinstance(value, Html):
        return value.right
    return isinstance(value, (int, float)) or (isinstance(value, str) and bool(MEASURE.fullmatch(value)))


def percent(share: float | None) -> object:
    """75 %, or nothing."""
    return None if share is None else Html(text=f"{100 * share:.0f}&thinsp;%", right=True)


def counts(reasons: Mapping[str, int]) -> str | None:
    """Reasons by how often they occurred."""
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    return ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in ordered) or None


def note(text: str) -> str:
    """A remark below a figure."""
    return f"<p class='note'>{escape(text)}</p>"


def folded(summary: str, body: str) -> str:
    """Something to open on demand."""
    return f"<details><summary>{escape(summary)}</summary>{body}</details>"


def page(title: str, lead: str, sections: Sequence[Section]) -> str:
    """The whole page. lead: HTML under the title."""
    links = "".join(f"<a href='#{s.anchor}'>{escape(s.title)}</a>" for s in sections)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>{escape(title)}</h1>{lead}<nav>{links}</nav></header>"
        f"{''.join(section.html() for section in sections)}"
        "</main></body></html>\n"
    )


STYLE = """
:root{color-scheme:light dark;--paper:#fbfaf7;--card:#fff;--ink:#1d2126;--soft:#5d6670;--line:#e2dfd8;--grid:#e9e6df;
--c0:#1f6feb;--c1:#d9622b;--c2:#2b8a57;--c3:#8a4fbf;--c4:#b8860b;--c5:#c23b6a;--good:#2b8a57;--bad:#c2413b}
@media (prefers-color-scheme:dark){:root{--paper:#14171a;--card:#1b1f24;--ink:#e6e8ea;--soft:#9aa4ae;--line:#2c3238;
--grid:#272d33;--c0:#6aa8ff;--c1:#f08c5a;--c2:#5fc08a;--c3:#b98be6;--c4:#e0b64a;--c5:#ee7fa5;--good:#5fc08a;--bad:#f07b74}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;-webkit-text-size-adjust:100%}
main{max-width:980px;margin:0 auto;padding:40px 20px 80px}
h1{font-size:2rem;line-height:1.2;margin:0 0 .3em;letter-spacing:-.01em}
h2{font-size:1.3rem;margin:0 0 .8em;letter-spacing:-.005em}
h3{font-size:1rem;margin:1.6em 0 .5em}
header{margin-bottom:28px}
.lead{color:var(--soft);margin:.2em 0 1em;max-width:70ch}
nav{display:flex;flex-wrap:wrap;gap:6px 16px;font-size:.9rem;margin-top:14px}
a{color:var(--c0);text-decoration:none}a:hover{text-decoration:underline}
section{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:24px 26px;margin:0 0 20px}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:12px;margin:18px 0 4px}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px}
.tile b{display:block;font-size:1.45rem;line-height:1.25;white-space:nowrap;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.85rem}
.scroll{overflow-x:auto;margin:0 0 6px}.legend+.scroll{margin-top:22px}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th{text-align:left;font-weight:600;color:var(--soft);font-size:.82rem;vertical-align:bottom}
th,td{padding:7px 14px 7px 0;border-bottom:1px solid var(--line)}
td:last-child,th:last-child{padding-right:0}
tbody tr:last-child td{border-bottom:0}
.right{text-align:right;white-space:nowrap}
td small{color:var(--soft);display:block;font-size:.8rem}
td b{font-size:1.1rem}
.note,.quiet{color:var(--soft);font-size:.88rem;max-width:80ch}
.good{color:var(--good)}.bad{color:var(--bad)}
svg{width:100%;height:auto;display:block;max-width:760px;min-width:400px}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:var(--soft)}
svg text.row{fill:var(--ink);font-size:13px}
.grid{stroke:var(--grid);stroke-width:1}
.line{fill:none;stroke-width:2;stroke-linejoin:round}
.interval{stroke-width:7;stroke-linecap:round;opacity:.3}
.c0{stroke:var(--c0)}.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}.c5{stroke:var(--c5)}
.dot{stroke-width:0}.dot.c0{fill:var(--c0)}.dot.c1{fill:var(--c1)}.dot.c2{fill:var(--c2)}.dot.c3{fill:var(--c3)}
.dot.c4{fill:var(--c4)}.dot.c5{fill:var(--c5)}
.band{stroke:none;opacity:.15}.band.c0{fill:var(--c0)}.band.c1{fill:var(--c1)}.band.c2{fill:var(--c2)}
.band.c3{fill:var(--c3)}.band.c4{fill:var(--c4)}.band.c5{fill:var(--c5)}
.part.s0{fill:var(--good);background:var(--good)}.part.s1{fill:var(--c4);background:var(--c4)}
.part.s2{fill:var(--c1);background:var(--c1)}.part.s3{fill:var(--c3);background:var(--c3)}
.part.s4{fill:var(--soft);background:var(--soft)}.part.s5{fill:var(--bad);background:var(--bad)}
.key.part{width:11px;height:11px}
.mark{fill:none;stroke-width:2}.mark.baseline{stroke:var(--c2)}.mark.paper{stroke:var(--c1)}.mark.random{stroke:var(--soft)}
.legend{display:flex;flex-wrap:wrap;gap:4px 18px;font-size:.85rem;color:var(--soft);margin:6px 0 0}
.key{display:inline-block;width:14px;height:4px;border-radius:2px;margin-right:7px;vertical-align:middle;background:var(--c0)}
.key.c1{background:var(--c1)}.key.c2{background:var(--c2)}.key.c3{background:var(--c3)}.key.c4{background:var(--c4)}
.key.c5{background:var(--c5)}.key.dot{width:11px;height:11px;border-radius:50%}
.key.random{width:auto;height:auto;background:none}.key.random::before{content:"\\00d7";font-weight:700;font-style:normal}
.key.baseline{width:11px;height:11px;border-radius:1px;background:none;border:2px solid var(--c2)}
.key.paper{width:10px;height:10px;border-radius:1px;background:none;border:2px solid var(--c1);transform:rotate(45deg)}
.videos{display:grid;grid-template-columns:repeat(auto-fill,minmax(170px,1fr));gap:16px}
figure{margin:0}
video{width:100%;aspect-ratio:1;object-fit:contain;border-radius:8px;background:#000;display:block}
figcaption{font-size:.84rem;color:var(--soft);margin-top:5px}
details{margin-top:14px}summary{cursor:pointer;color:var(--soft);font-size:.9rem}
pre{font:12.5px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-x:auto;white-space:pre-wrap;
margin:10px 0 0}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(320px,1fr));gap:20px 32px}
@media (max-width:600px){section{padding:18px 16px}main{padding:24px 12px 60px}h1{font-size:1.6rem}}
@media print{section{break-inside:avoid}body{background:none}}
"""
