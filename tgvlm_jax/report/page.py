"""The frame around every report: one HTML file that asks nothing of the network."""

import html
import os

from tgvlm_jax import files
from tgvlm_jax.report.style import CSS

# Even a mistake in a report can then neither load nor run anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def escape(text: str) -> str:
    """Text made safe for element content and for quoted attributes."""
    return html.escape(text, quote=True)


def page(title: str, body: str) -> str:
    """A complete document around `body`, which is HTML already; `title` is plain text."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{CSS}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def write_page(path: str | os.PathLike[str], document: str) -> None:
    """Writes `document` whole or not at all; raises InputError when `path` cannot be written."""
    files.write_text(path, document)
