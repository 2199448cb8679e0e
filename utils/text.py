"""Small text files (configs, labels, tables) as any editor or spreadsheet saves them."""

import codecs
import csv
import io
import re
from pathlib import Path

from utils.errors import UserError

LIMIT, LINES = 2 ** 26, 2 ** 22  # bytes; lines of a table, which take far more memory


def read(path):
    """The text of a file: UTF-8, with or without a byte order mark, UTF-16 with one, else Windows-1252 with a note.

    Raises UserError if the file is missing, too large, or not text.
    """
    if not Path(path).is_file():  # reading a named pipe would wait forever
        raise UserError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    utf = "utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    try:
        content = data.decode(utf)
    except UnicodeDecodeError:
        content = data.decode("cp1252", "replace").replace("\ufffd", "\0")
        print(f"note: {path}: is not UTF-8; read as Windows-1252")
    if "\0" in content or len(data) > LIMIT:
        raise UserError(f"{path}: is not a text file of at most {LIMIT >> 20} MB: save it as UTF-8 text")
    return content.replace("\r\n", "\n").replace("\r", "\n")


def rows(path):
    """The non-empty lines of a table: list of (line number, cells). The delimiter is whichever of tab, semicolon, | and comma
    is most frequent in the first line, or spaces if it has none. Raises UserError.
    """
    content = read(path)
    if content.count("\n") > LINES:
        raise UserError(f"{path}: has more than {LINES:,} lines: split it, or save it as an array (.npy)")
    first = re.sub('"[^"]*"', "", content.lstrip().partition("\n")[0])
    delimiter = max("\t;|,", key=first.count)
    if delimiter not in first:
        delimiter, content = " ", re.sub("[ \t]+$", "", content, flags=re.MULTILINE)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter,
                        skipinitialspace=True, strict=True)
    try:
        lines = [(reader.line_num, [re.sub("^'(?=[=+@-])", "", cell.strip()) for cell in row]) for row in reader]
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num}: {error}") from None
    return [(number, cells) for number, cells in lines if any(cells)]


def cell(value):
    """A value for a CSV file: text that a spreadsheet would evaluate (=cmd(), +1) gets a ' in front; `rows` removes it."""
    return f"'{value}" if isinstance(value, str) and re.match(r"[=+@]|-(?![\d.]+$)", value) else value
