"""`engramd`: reads the configuration and runs the daemon in the foreground."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Config


def main(arguments: Sequence[str] | None = None) -> int:
    """Run engramd and return its exit code: 0 after a clean stop, else that of the error's code."""
    gc.disable()  # until the daemon is ready: next to nothing that a start makes is garbage
    try:
        return _main(sys.argv[1:] if arguments is None else arguments)
    finally:
        gc.enable()


def _main(arguments: Sequence[str]) -> int:
    import logging  # these here, where nobody looks for garbage
    import os

    from . import config as configuration
    from .protocol.errors import EngramError
    from .ready import Ready
    from .supervisor import Supervisor

    ready = Ready.of(arguments)
    supervisor = Supervisor()
    try:
        config, sources, is_check = configuration.load(arguments)
        if is_check:
            _print(config, sources)
            return 0
    except EngramError as error:
        ready.say(error.message)
        print(f"engramd: {error.message}", file=sys.stderr)
        return error.exit_code
    from . import daemon, logs

    try:
        config.data_path().mkdir(mode=0o700, parents=True, exist_ok=True)
        logs.set_up(config.log_level, config.log_format, config.log_path())
        daemon.serve(config, ready, supervisor)
    except (EngramError, OSError) as error:
        where = f"{os.fsdecode(error.filename)}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        message = error.message if isinstance(error, EngramError) else where
        ready.say(message)
        logging.getLogger("engramd").error("%s", message)
        return error.exit_code if isinstance(error, EngramError) else 1
    except Exception as error:  # the log is all that is left of a daemon that a command has started
        ready.say(f"engramd failed: {error!r:.200}")
        logging.getLogger("engramd").critical(
            "engramd failed, which it should not have; nothing that was acknowledged is lost", exc_info=True
        )
        return 1
    return 0


def _print(config: Config, sources: dict[str, str]) -> None:
    """The options in force. Paths are shown as they would be used."""
    import dataclasses

    shown = dataclasses.asdict(config) | {"socket": config.socket_path(), "data_dir": str(config.data_path())}
    for name, value in shown.items():
        print(f"{name} = {value!r}  # {sources[name]}")


if __name__ == "__main__":
    sys.exit(main())
