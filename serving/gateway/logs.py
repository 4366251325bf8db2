"""How the log is written: as text, or as one JSON object a line."""

import datetime
import json
import logging
import logging.handlers

from serving.gateway.options import Logs

TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# Of one of several processes that write to the same place.
PROCESS_TEXT_FORMAT = "%(asctime)s [%(process)d] %(levelname)s %(name)s: %(message)s"


class JsonFormatter(logging.Formatter):
    """time (UTC), level, logger, process id, message; and what was logged as `extra={"fields": {...}}`."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        moment = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        line = {
            "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(options: Logs) -> None:
    """Sets up the process's log. Raises OSError where the audit file can't be written."""
    # State changes of a server are wanted in its log, also without --verbose.
    logging.getLogger("serving").setLevel(logging.INFO)
    if options.log_format == "json":
        for handler in logging.getLogger().handlers:
            handler.setFormatter(JsonFormatter())
    if options.audit_file is not None:
        # Opened again where it was moved away, so that it can be rotated.
        audit = logging.handlers.WatchedFileHandler(options.audit_file, encoding="utf-8")
        audit.setFormatter(JsonFormatter())
        logger = logging.getLogger("serving.audit")
        logger.addHandler(audit)
        logger.propagate = False
