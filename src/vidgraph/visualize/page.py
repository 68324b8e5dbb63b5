"""The parts of a report: one HTML file with its style and pictures inside, no scripts, nothing
fetched.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from vidgraph.util import whole_file

_STYLE = """
:root { color-scheme: light; --ink: #1c1f23; --soft: #5b6470; --line: #dfe3e8; --accent: #0b6aa2; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 17px/1.6 Charter,
  "Bitstream Charter", "Iowan Old Style", Georgia, serif;
  -webkit-text-size-adjust: 100%; }
main { max-width: 64rem; margin: 0 auto; padding: 3.2rem 1.4rem 4rem; }
h1, h2, h3, table, figcaption, .facts, footer, .answer { font-family: system-ui, -apple-system,
  "Segoe UI", Roboto, "Helvetica Neue", Arial,
  sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0 0 .6rem; }
h2 { font-size: 1.28rem; line-height: 1.3; margin: 3rem 0 .6rem; padding-top: 1.3rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .5rem; }
p, ul { max-width: 42rem; margin: .6rem 0 1rem; }
.lead { font-size: 1.12rem; color: #333a42; }
.answer { font-size: 1.35rem; margin: 1.2rem 0; }
.answer strong { color: var(--accent); }
.note { border-left: 3px solid #d98e04; background: #fff8ea; padding: .6rem .9rem;
  max-width: 42rem; }
figure { margin: 1.2rem 0 1.6rem; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .86rem; line-height: 1.45; margin-top: .5rem;
  max-width: 42rem; }
.tiles { display: grid; gap: .6rem; margin: .6rem 0 1.2rem; }
.tiles figure { margin: 0; min-width: 0; }
.tiles img { width: 100%; border-radius: 3px; }
.tiles figcaption { margin-top: .25rem; font-size: .78rem; }
table { border-collapse: collapse; font-size: .92rem; margin: .8rem 0 1.4rem;
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
th, td { text-align: left; padding: .38rem 1.2rem .38rem 0; border-bottom: 1px solid var(--line);
  vertical-align: middle; }
thead th { color: var(--soft); font-weight: 600; font-size: .82rem; white-space: nowrap; }
tbody th { font-weight: 600; }
td.number, th.number { text-align: right; padding-right: 1.4rem; white-space: nowrap; }
.bars { width: 100%; max-width: 42rem; }
.bars th { width: 1%; white-space: nowrap; max-width: 16rem; overflow: hidden;
  text-overflow: ellipsis; }
.bars td.number { width: 1%; padding-right: 0; }
.track { background: #eef1f4; border-radius: 3px; height: .95rem; }
.fill { background: #9fb4c5; border-radius: 3px; height: 100%; min-width: 2px; }
.first .fill { background: var(--accent); }
.scale { display: flex; align-items: center; gap: .6rem; font: .82rem system-ui, sans-serif;
  color: var(--soft); margin: .4rem 0 1rem; }
.scale i { display: block; height: .7rem; width: 11rem; border-radius: 2px; }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: 50%;
  border: 1px solid #333;
  vertical-align: -0.08rem; margin: 0 .3rem 0 .7rem; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem;
  font-size: .9rem; margin: 1rem 0 1.4rem; }
.facts dt { color: var(--soft); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: #f3f5f7;
  padding: .1em .3em; border-radius: 3px; }
footer { margin-top: 3.5rem; padding-top: 1rem; border-top: 1px solid var(--line);
  color: var(--soft); font-size: .82rem; }
@media (max-width: 40rem) { body { font-size: 16px; } h1 { font-size: 1.6rem;
  } main { padding-top: 1.6rem; }
  .tiles { grid-template-columns: repeat(auto-fill, minmax(8rem, 1fr)) !important;
    } .facts { grid-template-columns: 1fr; }
  .facts dd { margin-bottom: .5rem; } }
@media print { h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


def document(title: str, lead: str, parts: Sequence[str], footer: str) -> str:
    """A whole page; `title`, `lead` and `footer` are plain text, `parts` is HTML made by the
    functions below.
    """
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<h1>{escape(title)}</h1>\n<p class="lead">{escape(lead)}</p>\n{body}\n'
        f"<footer>{escape(footer)}</footer>\n</main>\n</body>\n</html>\n"
    )


def write_page(path: str | Path, text: str) -> None:
    """Writes a page, whole or not at all.

    Raises:
        RunError: the folder cannot be written or the disk is full.
    """
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def heading(text: str, level: int = 2) -> str:
    return f"<h{level}>{escape(text)}</h{level}>"


def paragraph(text: str, kind: str = "") -> str:
    """Plain text as a paragraph; `kind` is a class of the style sheet."""
    return f'<p class="{kind}">{escape(text)}</p>' if kind else f"<p>{escape(text)}</p>"


def png_bytes(picture: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="png")
    return buffer.getvalue()


def image(picture: np.ndarray | bytes, alt: str, width: int | None = None) -> str:
    """A picture (pixels, or PNG bytes) inside the page; `width` in CSS pixels, for charts drawn at
    higher resolution.
    """
    data = picture if isinstance(picture, bytes) else png_bytes(picture)
    encoded = base64.b64encode(data).decode("ascii")
    size = f' width="{width}"' if width else ""
    return f'<img src="data:image/png;base64,{encoded}" alt="{escape(alt)}"{size}>'


def figure(picture: np.ndarray | bytes, alt: str, caption: str, width: int | None = None) -> str:
    """A picture with a caption."""
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{image(picture, alt, width)}{below}</figure>"


def tiles(pictures: Sequence[tuple[np.ndarray, str, str]], num_columns: int) -> str:
    """Small pictures side by side: (pixels, alternative text, caption) each."""
    cells = "".join(figure(picture, alt, caption) for picture, alt, caption in pictures)
    return (
        f'<div class="tiles" style="grid-template-columns: repeat({num_columns}, minmax(0, '
        f'1fr))">{cells}</div>'
    )


def bars(rows: Sequence[tuple[str, float]]) -> str:
    """Names with bars of 0 to 1, the first one in colour."""
    lines = []
    for number, (name, share) in enumerate(rows):
        kind = ' class="first"' if number == 0 else ""
        track = (
            '<div class="track" aria-hidden="true"><div class="fill" style="width: '
            f'{100 * share:.2f}%"></div></div>'
        )
        lines.append(
            f'<tr{kind}><th scope="row">{escape(name)}</th><td>{track}</td><td '
            f'class="number">{100 * share:.1f} %</td></tr>'
        )
    return f'<table class="bars"><tbody>{"".join(lines)}</tbody></table>'


def table(head: Sequence[str], rows: Sequence[Sequence[str]], num_text_columns: int = 1) -> str:
    """A table; all columns after the first `num_text_columns` hold numbers and are set flush
    right.
    """
    kinds = [' class="number"' if column >= num_text_columns else "" for column in range(len(head))]
    top = "".join(
        f'<th scope="col"{kind}>{escape(cell)}</th>' for cell, kind in zip(head, kinds, strict=True)
    )
    body = "".join(
        "<tr>"
        + "".join(f"<td{k}>{escape(c)}</td>" for c, k in zip(row, kinds, strict=True))
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table'
        "></div>"
    )


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Terms with short values."""
    items = "".join(f"<dt>{escape(term)}</dt><dd>{escape(value)}</dd>" for term, value in rows)
    return f'<dl class="facts">{items}</dl>'


def colour_scale(colours: Sequence[tuple[int, int, int]], low: str, high: str) -> str:
    """A strip of colours with a text at each end."""
    stops = ", ".join(f"rgb({r}, {g}, {b})" for r, g, b in colours)
    strip = f'<i style="background: linear-gradient(90deg, {stops})"></i>'
    return f'<div class="scale"><span>{escape(low)}</span>{strip}<span>{escape(high)}</span></div>'


def colour_key(entries: Sequence[tuple[tuple[int, int, int], str]], title: str = "Nodes:") -> str:
    """Dots of colour with their meaning."""
    dots = "".join(
        f'<span class="key" style="background: rgb({r}, {g}, {b})"></span>{escape(text)}'
        for (r, g, b), text in entries
    )
    return f'<div class="scale"><span>{escape(title)}{dots}</span></div>'
