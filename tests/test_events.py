"""What an event says, and that the documents say the same."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from edgebcnn.atomic import json_bytes
from edgebcnn.loop.reading import Reading
from edgebcnn.sinks.event import (
    KINDS,
    AgreementEvent,
    AlarmEvent,
    Event,
    GoldenEvent,
    ReadingEvent,
    SlotEvent,
    json_schema,
)
from tests.readings import reading, stamp

DOCS = Path(__file__).parents[1] / "docs"


def test_an_event_says_which_it_is_where_it_is_from_and_what_was_read() -> None:
    event = json.loads(stamp().reading(reading(12, truth="Soy-Milk")).json_line)
    assert (event["schema_version"], event["kind"], event["device"]) == (2, "reading", "shelf-3")
    assert event["bundle"] == "0123456789abcdef"
    assert (event["frame"], event["label"], event["truth"]) == (12, "Oatly-Oat-Milk", "Soy-Milk")
    assert event["top3"][1] == {"class_id": 52, "label": "Oatly-Natural-Oatghurt", "score": 0.007812}


def test_ids_count_up_within_a_run_and_differ_between_runs() -> None:
    first, second = stamp(), stamp()
    ids = [first.reading(reading()).id for _ in range(12)] + [second.reading(reading()).id]
    runs, numbers = zip(*(one.split("-") for one in ids), strict=True)
    assert numbers == (*map(str, range(12)), "0")
    assert len(set(runs)) == 2


def test_nothing_that_a_reading_knows_is_left_out_of_its_event() -> None:
    assert Reading.model_fields.keys() <= ReadingEvent.model_fields.keys()


def test_an_event_can_be_read_back() -> None:
    event = stamp().reading(reading(7, photo="Milch/Süß.png"))
    assert "Süß" in event.json_line.decode()
    assert ReadingEvent.model_validate_json(event.json_line) == event


def test_a_frame_without_a_product_says_why() -> None:
    known = stamp().reading(reading(7)).model_dump()
    nothing = {"label": None, "class_id": None, "score": None, "top3": (), "latency_ms": None, "reason": "black"}
    event = ReadingEvent(**{**known, **nothing})
    assert event.for_people() == "frame 7  skipped: black  delay 21 ms"
    assert json.loads(event.json_line)["label"] is None


def test_a_file_name_that_is_no_text_is_escaped() -> None:
    event = stamp().reading(reading(photo="Red/\udcff.png"))
    assert json.loads(event.json_line)["photo"] == r"Red/\udcff.png"


def test_a_number_that_json_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        _ = stamp().reading(reading(score=float("nan"))).json_line


def test_the_schema_in_the_docs_is_that_of_the_code() -> None:
    written = (DOCS / "events.schema.json").read_bytes()
    assert written == json_bytes(json_schema()), "python -m edgebcnn.sinks.event > docs/events.schema.json"


def test_the_table_in_the_docs_is_that_of_the_schema() -> None:
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## )", (DOCS / "events.md").read_text(), flags=re.S | re.M))
    tables = {
        title: dict(re.findall(r"^\| `(\w+)` \| [^|]+ \| (.+) \|$", section, flags=re.M))
        for title, section in sections.items()
    }
    assert tables["The reading"] == {name: field.description for name, field in ReadingEvent.model_fields.items()}
    titles: dict[type[Event], str] = {
        SlotEvent: "The slot",
        GoldenEvent: "The golden photos",
        AgreementEvent: "The agreement",
        AlarmEvent: "The alarm",
    }
    assert {ReadingEvent, *titles} == set(KINDS)
    for kind, title in titles.items():
        own = kind.model_fields.keys() - Event.model_fields.keys()
        assert tables[title] == {name: kind.model_fields[name].description for name in own}
