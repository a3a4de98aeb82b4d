"""Sentences that every Python installation has: the docstrings of its standard library."""

from __future__ import annotations

import importlib
import inspect
import random
import re

_MODULES = (
    "argparse ast asyncio base64 bisect calendar codecs collections concurrent.futures "
    "configparser contextlib copy csv datetime decimal difflib email.message enum fractions "
    "functools gzip hashlib heapq html http.client http.cookies inspect io ipaddress itertools "
    "json logging mailbox math multiprocessing os pathlib pickle queue random re sched secrets "
    "shutil signal socket sqlite3 ssl statistics string struct subprocess tarfile tempfile "
    "textwrap threading timeit tokenize traceback types unittest urllib.parse uuid weakref "
    "xml.dom.minidom zipfile"
)


def sentences(seed: int = 0) -> list[str]:
    """Return sentences of 30 to 300 characters, in an order drawn by ``seed``."""
    found: set[str] = set()
    for name in _MODULES.split():
        module = importlib.import_module(name)
        members = [module, *(member for _, member in inspect.getmembers(module))]
        methods = [m for c in members if inspect.isclass(c) for m in vars(c).values()]
        for member in (*members, *methods):
            if callable(member) or inspect.ismodule(member):
                found.update(_split(inspect.getdoc(member) or ""))
    ordered = sorted(found)
    random.Random(seed).shuffle(ordered)
    return ordered


def _split(text: str) -> list[str]:
    paragraphs = re.split(r"\n\s*\n", text)
    joined = (" ".join(paragraph.split()) for paragraph in paragraphs)
    parts = (part for paragraph in joined for part in re.split(r"(?<=[.!?]) (?=[A-Z])", paragraph))
    return [
        part
        for part in parts
        if 30 <= len(part) <= 300 and part[0].isupper() and part[-1] == "." and "(" not in part[:20]
    ]
