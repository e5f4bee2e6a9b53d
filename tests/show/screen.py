"""A terminal screen, as small as what rich writes needs: an independent check of what a person sees."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+")


def screen(output: str) -> list[str]:
    """The lines on an endlessly high screen after this output, blanks cut. Fails at an unknown code."""
    lines, row, column = [""], 0, 0
    for token in _TOKEN.finditer(output):
        text, (arguments, code) = token[0], token.groups()
        if text == "\r":
            column = 0
        elif text == "\n":  # a terminal's driver sends it as \r\n
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        elif code == "A":
            row = max(row - int(arguments or 1), 0)
        elif code == "K":
            assert arguments == "2", output
            lines[row] = ""
        elif code is None:
            padded = lines[row].ljust(column)
            lines[row] = padded[:column] + text + padded[column + len(text) :]
            column += len(text)
        else:
            assert code == "m" or (arguments, code) in [("?25", "l"), ("?25", "h")], text
    return [line.rstrip() for line in lines]
