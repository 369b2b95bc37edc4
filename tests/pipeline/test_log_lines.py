import json
import logging

import pytest

from pipeline.log_lines import JsonFormatter, PlainFormatter


@pytest.fixture
def record():
    record = logging.makeLogRecord(
        {
            "name": "cloud_server",
            "levelno": 20,
            "levelname": "INFO",
            "msg": "refused %s",
            "args": (3,),
        }
    )
    record.peer = "ipv4:1.2.3.4:5"
    record.reason = "two\nlines"
    return record


def test_a_record_becomes_one_json_object(record):
    fields = json.loads(JsonFormatter().format(record))
    assert fields.pop("time").endswith("+00:00")
    assert fields == {
        "level": "info",
        "logger": "cloud_server",
        "message": "refused 3",
        "peer": "ipv4:1.2.3.4:5",
        "reason": "two\nlines",
    }


def test_a_record_becomes_one_plain_line(record):
    line = PlainFormatter().format(record)
    assert line == "INFO cloud_server: refused 3; peer: ipv4:1.2.3.4:5; reason: two lines"
