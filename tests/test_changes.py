"""What the text of a command says about the variables that it may have changed."""

from __future__ import annotations

import time

import pytest

from omega_sessiond.changes import MOST_CHARACTERS, touched

MODULES = "import heapq, random, math, copy\nimport os.path\nimport numpy as np\nfrom datetime import datetime"

TABLE = {
    "x": "",
    "x + y.z[0]": "",
    "x = y": "x",
    "x: int = 1; y: int": "x",
    "(a, [b, *c]) = d": "a b c",
    "x += y": "x",
    "x.part += 1; y[z] -= 1; u.v.w[0] = 1": "u x y",
    "del x, y.z, u[0]": "u x y",
    "x.append(1); y.z.clear(); u[0].v()": "u x y",
    "x.copy().update(y)": "x y",
    "random.shuffle(items); heapq.heappush(h, 1); fill(items)": "h items",
    "np.random.shuffle(a.b); os.path.join(c)": "a c",
    "math.pi; datetime.now()": "",
    "math = 3; math.bit_length()": "math",
    "random.seed = 1": "random",
    "f(a, *b, c=d, **e)": "a b d e",
    "f([a, {'k': b}], c if d else e, g or h, i + j)": "a b c e g h",
    "f(g(a), b.c(d))": "a b d",
    "f(random, int, len)": "",
    "print(a, len(b), sep=c); isinstance(d, e); ', '.join(f); f'{g}'.format(h)": "",
    "print(a.pop())": "a",
    "match [7, 8, 9]:\n case [a, *rest]: pass": "a rest",
    "match x:\n case {'k': v, **others}: pass\n case P(q=w) as whole: pass\n case _: pass": "others v w whole",
    "if (n := f()) and (m := 1): pass": "m n",
    "[last := i for i in a]": "last",
    "[i for i in a]; {i: j for i, j in a}; (i for i in a if i)": "",
    "[i.append(1) for i in a]": "a",
    "[[f(j) for j in i] for i in a.b]": "a",
    "[f(i, b) for i in range(3)]": "b",
    "any(i.x for i in a)": "a",
    "for i in a: pass\nelse: z = 1": "i z",
    "for i in a: i.x = 1": "a i",
    "for i in a:\n for j in i: j.clear()": "a i j",
    "for x.y, z[0] in a: pass": "x z",
    "with a.open() as f, b as (g, h[0]): pass": "a f g h",
    "async def f():\n async with a as b: pass": "f",
    "async for i in a: pass\nawait f(b)": "b i",
    "try: pass\nexcept E as e: pass": "e",
    "def f(a=g(b)):\n global n, m\n n = 1; local = 2; x.append(local)": "b f m n",
    "def f():\n def g():\n  global n": "f n",
    "@decorate(a)\nclass C(b, meta=c):\n x = 1; x.y(); d.append(x)": "C a d",
    "f = lambda a, b=c.pop(): b.append(a)": "c f",
    "import math, json": "json",
    "import math as m, xml.dom": "m xml",
    "from datetime import datetime, date; from x import *": "date",
    "from . import here": "here",
    "import random; random.shuffle(a)": "a",
    "not Python at all": "",
    "x = '\0'": "",
}
"""A command after MODULES, and the names that it may have changed."""


@pytest.mark.parametrize("command", TABLE)
def test_names_that_a_command_may_have_changed(command: str) -> None:
    """See TABLE."""
    found, is_read = touched([command], [MODULES])
    assert (" ".join(sorted(found)), is_read) == (TABLE[command], True)


def test_what_a_name_is_by_then() -> None:
    """A name is a module as long as nothing else was bound to it, in earlier commands and in these."""
    assert touched(["a.f()"], ["import a", "a = 1"])[0] == {"a"}
    assert touched(["a.f()"], ["a = 1", "import a"])[0] == set()
    assert touched(["import a", "a.f(b)"])[0] == {"a", "b"}
    assert touched(["import a"], ["import b as a"])[0] == {"a"}
    assert touched(["import a"], ["import a", "a = 1"])[0] == {"a"}
    assert touched(["f(int)"], ["int = []"])[0] == {"int"}


def test_texts_are_read_up_to_a_bound() -> None:
    """What is too long is not read and said to be so, and costs no time; earlier commands that are not read make names
    into variables that may be modules."""
    long = "x = 1\n" * (MOST_CHARACTERS // 6 + 1)
    begun = time.monotonic()
    assert touched(["z = 1", long, "y = 1"]) == ({"y", "z"}, False)
    assert touched(["y.f()", "z = 1"], ["import y", long]) == ({"y", "z"}, True)
    assert touched(["(" * 150 + "x" + ")" * 150, "-" * 5000 + "x", "x" + ".a" * 20000 + " = 1", "z = 1"])[0] >= {"z"}
    assert time.monotonic() - begun < 10
