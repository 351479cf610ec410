"""Scores as a table that can be printed, written as JSON and drawn by a report."""

import dataclasses
from typing import Any

Cell = str | float | int | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """Rows under named columns; None is a score that there is not.

    Attributes:
        decimals: of floats when printed; JSON keeps them whole.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    decimals: int = 5

    def text(self) -> str:
        """Aligned columns, words to the left and numbers to the right."""
        printed = self.printed()
        widths = [max(map(len, column)) for column in zip(self.columns, *printed, strict=True)]
        words = [
            all(isinstance(cell, str) for cell in column) for column in zip(*self.rows, strict=True)
        ] or [True] * len(widths)

        def line(cells: list[str]) -> str:
            aligned = (
                cell.ljust(width) if left else cell.rjust(width)
                for cell, width, left in zip(cells, widths, words, strict=True)
            )
            return "  ".join(aligned).rstrip()

        rule = "  ".join("-" * width for width in widths)
        return "\n".join([self.title, line(list(self.columns)), rule, *map(line, printed)])

    def printed(self) -> list[list[str]]:
        """The cells of every row as text."""
        return [[self._cell(cell) for cell in row] for row in self.rows]

    def to_json(self) -> list[dict[str, Any]]:
        """One record a row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def _cell(self, cell: Cell) -> str:
        if cell is None:
            return "-"
        return f"{cell:.{self.decimals}f}" if isinstance(cell, float) else str(cell)
