"""The frame around every report: one HTML file that asks nothing of the network."""

import contextlib
import html
import os
import pathlib
import tempfile

from tgvlm_jax.report.style import CSS
from tgvlm_jax.types import InputError

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
    """Write `document` to `path` whole or not at all.

    Raises:
        InputError: the folder is missing, not writable or full.
    """
    target = pathlib.Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with open(handle, "w", encoding="utf-8") as file:
            file.write(document)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise InputError(
            f"cannot write the report {target}: {error.strerror}; choose a folder that exists, is "
            "writable and has room"
        ) from error
