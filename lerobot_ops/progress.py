"""Progress on a terminal: a bar where somebody watches, nothing where the output is a file."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tqdm import tqdm


@contextlib.contextmanager
def counting(label: str, total: int | None, unit: str = "episode") -> Iterator[Callable[..., None]]:
    """Yield a callback that advances a bar by one, whatever it is called with."""
    with tqdm(total=total, desc=label, unit=unit, disable=None, leave=False) as bar:

        def advance(*_: Any, **__: Any) -> None:
            bar.update()

        yield advance
