"""An AsyncAPI 3.0 document of the contract (asyncapi.com/docs/reference/specification/v3.0.0).

A service that produces to a topic has an operation with action `send`, one that consumes
`receive`. Payloads of pydantic models carry their JSON schema, binary ones their format page.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from schemas.envelope import CONTENT_TYPE, Event
from schemas.topics import Contract, Topic

PAGES = {
    "FrameRecord": "docs/formats/frame-record.md",
    "Chunk": "docs/formats/chunk.md",
    "DeadLetter": "docs/formats/dead-letter.md",
}


def asyncapi_document(contract: Contract, server: str = "", version: str = "1") -> dict[str, Any]:
    """The document as plain data; `server` is a host and port, or empty."""
    document: dict[str, Any] = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Lucid topics",
            "version": version,
            "description": "Records of remote-desktop sessions on their way to storage.",
        },
        "channels": {},
        "operations": {},
        "components": {"messages": {}},
    }
    if server:
        document["servers"] = {"broker": {"host": server, "protocol": "kafka"}}
    for topic in contract.topics.values():
        messages = _messages(topic)
        document["components"]["messages"].update(messages)
        document["channels"][topic.name] = _channel(topic, list(messages))
        document["operations"].update(_operations(topic))
    return document


def _channel(topic: Topic, messages: list[str]) -> dict[str, Any]:
    return {
        "address": topic.full_name,
        "description": f"{topic.about} Key: {topic.key}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
        "bindings": {
            "kafka": {
                "topic": topic.full_name,
                "partitions": topic.partitions,
                "replicas": topic.replication,
                "topicConfiguration": {
                    "cleanup.policy": [topic.cleanup],
                    "retention.ms": topic.retention_ms,
                    "max.message.bytes": topic.max_record,
                },
                "bindingVersion": "0.5.0",
            }
        },
    }


def _operations(topic: Topic) -> dict[str, Any]:
    sides = [("send", service) for service in topic.producers]
    sides += [("receive", service) for service in topic.consumers]
    return {
        f"{service}.{action}.{topic.name}": {
            "action": action,
            "channel": {"$ref": f"#/channels/{topic.name}"},
            "tags": [{"name": service}],
        }
        for action, service in sides
    }


def _messages(topic: Topic) -> dict[str, Any]:
    model = topic.model()
    if issubclass(model, Event):
        return {name: _json_message(name, data, CONTENT_TYPE) for name, data in model.types.items()}
    if issubclass(model, BaseModel):
        return {model.__name__: _json_message(model.__name__, model, CONTENT_TYPE)}
    return {
        model.__name__: {
            "name": model.__name__,
            "contentType": "application/octet-stream",
            "description": f"Binary; the format is {PAGES[model.__name__]}.",
        }
    }


def _json_message(name: str, model: type[BaseModel], content_type: str) -> dict[str, Any]:
    return {
        "name": name,
        "contentType": content_type,
        "description": (model.__doc__ or "").strip().split("\n")[0],
        "payload": model.model_json_schema(),
    }
