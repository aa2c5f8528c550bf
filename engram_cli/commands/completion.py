"""`engram completion`: the shells' completions, for who has no package that puts them in their place."""

from __future__ import annotations

from engramd.protocol.errors import EngramError

from ..common import Common


def run(common: Common, shell: str) -> None:
    """Print the completions of bash, zsh or fish, as they are in `completions/`.

    Raises:
        EngramError: `invalid` for another shell.
    """
    from ..generate.completions import SHELLS

    if shell not in SHELLS:
        raise EngramError("invalid", f"there are no completions for {shell!r}; there are for {', '.join(SHELLS)}")
    common.output().raw(SHELLS[shell]().encode())
