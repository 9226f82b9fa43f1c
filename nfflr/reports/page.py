"""One self-contained HTML page from typed pieces: no script, no file or address outside of it."""

from __future__ import annotations

import base64
import html
import io
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from string import Template

import matplotlib.figure

# Nothing is loaded from anywhere, whatever a name in the data might try: the policy says it to the browser.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ground: #fff; --text: #1b1f24; --muted: #5a6370; --line: #d5dae1;
  --panel: #f5f7f9; --accent: #0b5cad; --pass: #176b34; --fail: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171b; --text: #e4e8ed; --muted: #a0a9b5;
  --line: #363d47; --panel: #1d2127; --accent: #7cb7f2; --pass: #6fce8d; --fail: #ff8a80; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); overflow-wrap: anywhere;
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; -webkit-text-size-adjust: 100%; }
main { max-width: 68rem; margin: 0 auto; padding: 1rem 1rem 4rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; padding-bottom: .2rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1rem; margin: .8rem 0; }
nav a { color: var(--accent); padding: .2rem 0; }
p { margin: .5rem 0; } .muted { color: var(--muted); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .6rem;
  margin: 1rem 0; padding: 0; }
.facts div { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem;
  padding: .5rem .7rem; }
.facts dt { color: var(--muted); font-size: .85rem; }
.facts dd { margin: 0; font-size: 1.1rem; font-weight: 600; }
.figures { display: grid;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 18rem), 1fr)); gap: .8rem; }
figure { margin: 0; } figcaption { color: var(--muted); font-size: .85rem; }
img { display: block; width: 100%; max-width: 34rem; height: auto; background: #fff; border-radius: .3rem; }
img.wide { max-width: 100%; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0;
  border-bottom: 1px solid var(--line); }
.grid th, .grid td { overflow-wrap: normal; } .grid .number { text-align: right; }
.grid .short { white-space: nowrap; }
.pairs th { font-weight: 400; color: var(--muted); width: 13rem; } .pairs td { min-width: 8rem; }
.pass { color: var(--pass); font-weight: 600; } .fail { color: var(--fail); font-weight: 600; }
pre { background: var(--panel); border: 1px solid var(--line); border-radius: .4rem;
  padding: .7rem; margin: .5rem 0;
  white-space: pre-wrap; font-size: .85rem; }
@media (max-width: 30rem) { .pairs { width: 100%; } .pairs th { width: 45%; } .pairs td { min-width: 0; } }
@media print { nav { display: none; } figure, tr { break-inside: avoid; } }
"""
SHORT = 22  # characters of a cell that is not broken into lines
PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="$policy">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title</h1>
$lead
<nav>$links</nav>
$sections
</main>
</body>
</html>
""")
SECTION = Template("""<section id="$anchor">
<h2>$title</h2>
$body
</section>""")


@dataclass(frozen=True)
class Text:
    """A paragraph; ``muted`` for what is said in passing."""

    text: str
    muted: bool = False

    def html(self) -> str:
        return f'<p class="muted">{escape(self.text)}</p>' if self.muted else f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Heading:
    """A title inside a section."""

    text: str

    def html(self) -> str:
        return f"<h3>{escape(self.text)}</h3>"


@dataclass(frozen=True)
class Code:
    """Text to copy, as it is."""

    text: str

    def html(self) -> str:
        return f"<pre><code>{escape(self.text)}</code></pre>"


@dataclass(frozen=True)
class Facts:
    """A few numbers that matter, side by side."""

    items: Sequence[tuple[str, object]]

    def html(self) -> str:
        tiles = (f"<div><dt>{escape(k)}</dt><dd>{escape(number(v))}</dd></div>" for k, v in self.items)
        return f'<dl class="facts">{"".join(tiles)}</dl>'


@dataclass(frozen=True)
class Pairs:
    """Names with their values, one below the other."""

    items: Sequence[tuple[str, object]]

    def html(self) -> str:
        rows = (f"<tr><th>{escape(k)}</th><td>{escape(number(v))}</td></tr>" for k, v in self.items)
        return f'<table class="pairs"><tbody>{"".join(rows)}</tbody></table>'


@dataclass(frozen=True)
class Grid:
    """Rows below headers, scrolled sideways where they are too wide; a truth value is pass or fail."""

    headers: Sequence[str]
    rows: Sequence[Sequence[object]]

    def html(self) -> str:
        numeric = [
            any(_is_number(row[k]) for row in self.rows)
            and all(_is_number(row[k]) or row[k] is None for row in self.rows)
            for k in range(len(self.headers))
        ]
        head = "".join(_cell("th", h, n) for h, n in zip(self.headers, numeric, strict=True))
        body = "".join(
            f"<tr>{''.join(_cell('td', v, n) for v, n in zip(row, numeric, strict=True))}</tr>"
            for row in self.rows
        )
        table = f'<table class="grid"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        return f'<div class="scroll">{table}</div>'


@dataclass(frozen=True)
class Image:
    """A PNG inside the page, with the words that stand for it."""

    png: bytes
    alt: str
    wide: bool = False

    def html(self) -> str:
        data = base64.b64encode(self.png).decode()
        kind = ' class="wide"' if self.wide else ""
        source = f"data:image/png;base64,{data}"
        return f'<figure><img{kind} src="{source}" alt="{escape(self.alt)}"></figure>'


@dataclass(frozen=True)
class Images:
    """Images side by side where the screen has room."""

    images: Sequence[Image]

    def html(self) -> str:
        return f'<div class="figures">{"".join(image.html() for image in self.images)}</div>'


Piece = Text | Heading | Code | Facts | Pairs | Grid | Image | Images


@dataclass(frozen=True)
class Section:
    """A part of the page that the table of contents names."""

    anchor: str
    title: str
    pieces: Sequence[Piece]

    def html(self) -> str:
        body = "\n".join(piece.html() for piece in self.pieces)
        return SECTION.substitute(anchor=escape(self.anchor), title=escape(self.title), body=body)


def page(title: str, lead: Iterable[Piece], sections: Sequence[Section]) -> str:
    """The whole page; every text is escaped, so that names in data stay text."""
    return PAGE.substitute(
        policy=escape(POLICY),
        style=STYLE,
        title=escape(title),
        lead="\n".join(piece.html() for piece in lead),
        links=" ".join(f'<a href="#{escape(s.anchor)}">{escape(s.title)}</a>' for s in sections),
        sections="\n".join(section.html() for section in sections),
    )


def escape(text: object) -> str:
    """Text without markup; control characters and lone surrogates, which no page may hold, are left out."""
    kept = (c for c in str(text) if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cs"))
    return html.escape("".join(kept), quote=True)


def number(value: object) -> str:
    """A value as people read it; a dash for one that is not there."""
    if value is None or value != value:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def panels(figure: matplotlib.figure.Figure, dpi: int = 160) -> list[bytes]:
    """Each visible axes of a figure as a PNG of its own: on a phone they go below each other."""
    axes = [a for a in figure.axes if a.axison]
    for one in axes:
        one.tick_params(labelbottom=True, labelleft=True)  # shared axes show them at the rim only
        one.set_xlabel(one.get_xlabel() or axes[-1].get_xlabel())
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # hiding the others below would move what is left
    return [_alone(figure, one, dpi) for one in axes]


def _alone(figure: matplotlib.figure.Figure, axes, dpi: int) -> bytes:
    """The part of a figure that one axes takes, without what reaches into it from the others."""
    for other in figure.axes:
        other.set_visible(other is axes)
    inches = axes.get_tightbbox().transformed(figure.dpi_scale_trans.inverted())
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=dpi, bbox_inches=inches.padded(0.08))
    return content.getvalue()


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(tag: str, value: object, numeric: bool) -> str:
    word = ("pass" if value else "fail") if isinstance(value, bool) else value
    if tag == "td" and word in ("pass", "fail"):
        return f'<{tag}><span class="{word}">{word}</span></{tag}>'
    text = number(value)
    kinds = [name for name, has in (("number", numeric), ("short", len(text) <= SHORT)) if has]
    kind = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<{tag}{kind}>{escape(text)}</{tag}>"
