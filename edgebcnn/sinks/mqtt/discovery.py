"""The sensors that Home Assistant shows of a device, and the messages by which it discovers them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edgebcnn import __version__
from edgebcnn.sinks.event import slot_subtopic
from edgebcnn.sinks.mqtt.presence import Publication, ascii_level


@dataclass(frozen=True)
class Entity:
    """A Home Assistant sensor that shows one kind of event.

    Attributes:
        key: Unique within the device.
        name: Name that Home Assistant shows.
        subtopic: Subtopic of the events that it reads.
        template: Jinja2 template of the value; `value_json` is the event.
        more: Further settings of the MQTT sensor.
    """

    key: str
    name: str
    subtopic: str
    template: str
    more: tuple[tuple[str, str], ...] = ()


READING_ENTITIES = (
    Entity("product", "Product", "reading", "{{ value_json.label }}", (("icon", "mdi:barcode-scan"),)),
    Entity(
        "score",
        "Score",
        "reading",
        "{{ (100 * value_json.score) | round(1) if value_json.score is number else None }}",
        (("unit_of_measurement", "%"), ("state_class", "measurement")),
    ),
)


def slot_entities(slots: Iterable[tuple[str, str]]) -> tuple[Entity, ...]:
    """The sensors of slots, which are given by the names of shelf and slot."""
    return tuple(
        Entity(
            f"slot_{zlib.crc32(slot_subtopic(shelf, slot).encode()):08x}",  # the same, however the file is ordered
            f"{shelf} {slot}",
            slot_subtopic(shelf, slot),
            "{{ value_json.state }}",
            (("icon", "mdi:bookshelf"),),
        )
        for shelf, slot in slots
    )


def announcements(prefix: str, topic: str, device: str, entities: Sequence[Entity]) -> Iterator[Publication]:
    """Yields what Home Assistant reads to discover a device.

    Args:
        prefix: Where Home Assistant looks for devices; empty to turn discovery off.
        topic: The device's topic.
        device: Its name.
        entities: Its sensors.
    """
    if not prefix:
        return
    node = f"edgebcnn_{ascii_level(device)}"
    about = {"identifiers": [node], "name": device, "manufacturer": "edgebcnn", "sw_version": __version__}
    for entity in entities:
        config: dict[str, Any] = {
            "name": entity.name,
            "unique_id": f"{node}_{entity.key}",
            "state_topic": f"{topic}/{entity.subtopic}",
            "value_template": entity.template,
            "availability_topic": f"{topic}/status",
            "device": about,
            "origin": {"name": "edgebcnn", "sw_version": __version__},
            **dict(entity.more),
        }
        yield f"{prefix}/sensor/{node}/{entity.key}/config", json.dumps(config, ensure_ascii=False).encode(), True
