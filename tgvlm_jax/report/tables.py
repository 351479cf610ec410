"""A page of tables: what a benchmark's scorer found, and how."""

import os
from collections.abc import Sequence

from tgvlm_jax.report.page import escape, page, write_page
from tgvlm_jax.text.tables import Table


def write_tables(
    path: str | os.PathLike[str],
    tables: Sequence[Table],
    *,
    title: str,
    summary: str,
    notes: Sequence[str] = (),
) -> None:
    """Writes one HTML file; text is plain and gets escaped.

    Raises:
        InputError: `path` cannot be written.
    """
    head = f"""<p class="eyebrow">tgvlm_jax · benchmark</p>
<h1>{escape(title)}</h1>
<p class="lead">{escape(summary)}</p>"""
    made = "".join(f'<p class="why">{escape(note)}</p>' for note in notes)
    body = "\n".join([head, *map(_table, tables), f"<h2>How</h2>{made}" if made else ""])
    write_page(path, page(title, body))


def _table(table: Table) -> str:
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in table.printed()
    )
    return f"""<h2>{escape(table.title)}</h2>
<div class="wide"><table>
<thead><tr>{columns}</tr></thead>
<tbody>{rows}</tbody>
</table></div>"""
