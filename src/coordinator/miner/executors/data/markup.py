"""The visible text of HTML, in time that grows with its length, whatever a stranger wrote.

`html.parser` looks for the end of a tag or comment from every `<` anew; so 60,000 unfinished ones take hours.
Here each place is read a fixed number of times.
"""

from __future__ import annotations

import html
import re
from typing import Final

_RAW: Final = frozenset({"script", "style"})
"""Elements whose content is no markup; a browser shows none of it."""
_HIDDEN: Final = "template"
_NAME: Final = re.compile(r"/?([A-Za-z][^\s/>]*)")
# Possessive (`++`): nothing is tried twice. A quote opens a value only after "=", as in browsers.
_REST_OF_TAG: Final = re.compile(r"""(?:[^>=]++|=\s*+"[^"]*+"|=\s*+'[^']*+'|=)*+>""")
_END_OF_RAW: Final = {name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in _RAW}
# Python refuses to read numbers of thousands of digits; no character has one above seven.
_IMPOSSIBLE_NUMBER: Final = re.compile(r"&#(?:0*[0-9]{9,}|[xX]0*[0-9A-Fa-f]{9,});?")


def visible_text(markup: str) -> str:
    """The text between the tags, each of which becomes a space; without comments, scripts and styles.

    Unfinished tags are text; an unfinished comment or script reaches to the end, as in browsers.
    """
    parts: list[str] = []
    place, hidden, quotes_count = 0, 0, True
    while (start := markup.find("<", place)) >= 0:
        _add(parts, markup[place:start], hidden)
        if markup.startswith("<!--", start):
            end = markup.find("-->", start + 2)
            place = len(markup) if end < 0 else end + 3
        elif markup.startswith(("<!", "<?"), start):
            end = markup.find(">", start)
            place = len(markup) if end < 0 else end + 1
        elif name := _NAME.match(markup, start + 1):
            end = _end_of_tag(markup, name.end(), quotes_count)
            if end < 0 and quotes_count:
                # A value that is never closed hides the tag's end: from here on quotes mean nothing.
                quotes_count = False
                end = _end_of_tag(markup, name.end(), quotes_count)
            if end < 0:
                place = start
                break  # no tag ends after this
            place = end
            parts.append(" ")
            word, closes = name[1].lower(), markup[start + 1] == "/"
            if word == _HIDDEN:
                hidden = max(0, hidden - 1) if closes else hidden + 1
            elif word in _RAW and not closes:
                raw = _END_OF_RAW[word].search(markup, place)
                place = len(markup) if raw is None else raw.start()
        else:
            _add(parts, "<", hidden)
            place = start + 1
    _add(parts, markup[place:], hidden)
    return "".join(parts)


def _end_of_tag(markup: str, place: int, quotes_count: bool) -> int:
    """The place after the tag's `>`, or -1."""
    if not quotes_count:
        return markup.find(">", place) + 1 or -1
    found = _REST_OF_TAG.match(markup, place)
    return -1 if found is None else found.end()


def _add(parts: list[str], text: str, hidden: int) -> None:
    if text and not hidden:
        parts.append(html.unescape(_IMPOSSIBLE_NUMBER.sub("\ufffd", text)) if "&" in text else text)
