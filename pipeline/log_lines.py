"""Log records as lines, with all that the call gave as `extra`."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in vars(record).items() if key not in _PLAIN}


class PlainFormatter(logging.Formatter):
    """For people: level, logger and message, then each `extra` with its name."""

    def __init__(self) -> None:
        super().__init__("%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the name is logging's
        """The line without a traceback."""
        extras = (
            f"; {key}: {' '.join(str(value).split())}" for key, value in _extras(record).items()
        )
        return super().formatMessage(record) + "".join(extras)


class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message, then each `extra` by its name."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= _extras(record)
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return json.dumps(fields, default=str)
