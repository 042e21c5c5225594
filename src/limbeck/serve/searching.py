"""An index behind a thread of its own: its engine is asked one thing at a time, beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from limbeck.search.index import Index

Result = TypeVar("Result")


class Searcher:
    """One index. What only reads its `index.spec`, such as `Index.check_search`, may be called from anywhere."""

    def __init__(self, name: str, index: Index) -> None:
        """Args: name: that requests call it by; index: open, used by nobody else from now on."""
        self.name, self.index = name, index
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"limbeck-index-{name}")

    async def run(self, function: Callable[[], Result]) -> Result:
        """Call a function in the index's thread; cancelled, one that has not begun is never called.

        Raises what it raises.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    async def close(self) -> None:
        """Finish what is asked, and let go of the index."""
        await self.run(self.index.close)
        await asyncio.to_thread(self._thread.shutdown)
