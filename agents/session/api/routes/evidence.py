"""What proves a recording: manifest, signed checkpoint, proofs, and Lucid's own verification."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from agents.session.api import models
from agents.session.api.context import api_of
from agents.session.api.guard import BASE, VisibleSession
from agents.session.api.problems import ApiProblem, Code, responses
from agents.session.api.support import json_bytes, reply, tag_of
from agents.session.api.verifying import TooMany
from schemas.anchors import anchor_of
from schemas.manifests import Manifest, read_manifest
from schemas.merkle import consistency_proof, inclusion_proof, root
from schemas.proofs import Proof, write_proof
from schemas.receipts import AnchorReceipt, fits
from schemas.verdicts import Report

router = APIRouter(prefix=f"{BASE}/sessions/{{session}}", tags=["evidence"])
PLAIN = "text/plain; charset=utf-8"
TREE_SIZE = 2**32 - 1


@lru_cache(500)
def _signed(text: str) -> Manifest:
    return read_manifest(text.encode())


@router.get(
    "/manifest",
    responses={
        **responses(Code.SESSION_NOT_FOUND, Code.NOT_YET, Code.ERASED),
        200: {"content": {"application/json": {"schema": {"type": "object"}}},
              "description": "Canonical JSON (RFC 8785), byte for byte what the checkpoint signs; "
                             "docs/formats/manifest.md. The ETag is its SHA-256"},
    },
)  # fmt: skip
async def manifest(request: Request, row: VisibleSession) -> Response:
    """What the session turned out to be."""
    found = await api_of(request).reading.manifest(row)
    return reply(request, found["manifest"].encode(), tag=found["hash"])


@router.get(
    "/checkpoint",
    responses={
        **responses(Code.SESSION_NOT_FOUND, Code.NOT_YET, Code.ERASED),
        200: {"content": {PLAIN: {"schema": {"type": "string"}}},
              "description": "A C2SP checkpoint: origin, size, root, manifest hash, signature"},
    },
)  # fmt: skip
async def checkpoint(request: Request, row: VisibleSession) -> Response:
    """The processor's signature over the session's tree and manifest."""
    found = await api_of(request).reading.manifest(row)
    return reply(request, found["checkpoint"].encode(), media_type=PLAIN)


@router.get(
    "/anchor",
    response_model=models.Anchored,
    responses=responses(Code.SESSION_NOT_FOUND, Code.NOT_YET, Code.ERASED),
)
async def anchor(request: Request, row: VisibleSession) -> Response:
    """What a ledger outside of Lucid registers of the session, and what its clients claim."""
    found = await api_of(request).reading.manifest(row)
    data = found["manifest"].encode()
    view = await api_of(request).reading.view("receipts", row.session)
    receipts = [
        {**one, "fits": fits(AnchorReceipt.model_validate(one["claim"]), row.session, data)}
        for one in view.get("receipts", [])
    ]
    registered = anchor_of(read_manifest(data)).model_dump(mode="json")
    return reply(request, json_bytes({"anchor": registered, "receipts": receipts}))


@router.get(
    "/chunks/{index}/proof",
    responses={
        **responses(Code.SESSION_NOT_FOUND, Code.CHUNK_NOT_FOUND, Code.NOT_YET, Code.ERASED),
        200: {"content": {PLAIN: {"schema": {"type": "string"}}},
              "description": "C2SP tlog-proof: checked offline with the chunk and a verifier key"},
    },
)  # fmt: skip
async def proof(
    request: Request, row: VisibleSession, index: Annotated[int, Path(ge=0, le=TREE_SIZE)]
) -> Response:
    """That a chunk is in the signed tree."""
    reading = api_of(request).reading
    found = await reading.manifest(row)
    signed = _signed(found["manifest"])
    if index >= signed.chunks:
        raise ApiProblem(
            Code.CHUNK_NOT_FOUND, f"session {row.session} has {signed.chunks} chunks, 0 to "
            f"{signed.chunks - 1}",
        )  # fmt: skip
    leaves = await reading.leaves(row, signed.chunks)
    if len(leaves) < signed.chunks or root(leaves).hex() != signed.root:
        raise ApiProblem(
            Code.NOT_YET, f"the list of stored chunks of session {row.session} does not have the "
            "signed root; `lucid verify` says why, or the view is not there yet",
        )  # fmt: skip
    text = write_proof(Proof(index, inclusion_proof(leaves, index), found["checkpoint"]))
    return reply(request, text.encode(), media_type=PLAIN)


@router.get(
    "/consistency",
    response_model=models.Consistency,
    responses=responses(Code.SESSION_NOT_FOUND, Code.CHUNK_NOT_FOUND),
)
async def consistency(
    request: Request,
    row: VisibleSession,
    old: Annotated[int, Query(ge=0, le=TREE_SIZE, description="Chunks of the tree known before")],
    new: Annotated[
        int | None, Query(ge=0, le=TREE_SIZE, description="Of the newer one; all if left out")
    ] = None,
) -> Response:
    """That what is stored now extends what was stored before, also while the session runs."""
    reading = api_of(request).reading
    leaves = await reading.leaves(row, row.chunks if new is None else new)
    size = len(leaves) if new is None else new
    if not old <= size <= len(leaves):
        raise ApiProblem(
            Code.CHUNK_NOT_FOUND, f"session {row.session} has the first {len(leaves)} chunks in "
            f"the store; {old} and {size} are no trees of them",
        )  # fmt: skip
    newer = root(leaves[:size]).hex()
    body = {
        "session": row.session, "old_size": old, "new_size": size,
        "old_root": root(leaves[:old]).hex(), "new_root": newer,
        "proof": [node.hex() for node in consistency_proof(leaves[:size], old)],
        "signed": await _signed_root(request, row) == (size, newer),
    }  # fmt: skip
    return reply(request, json_bytes(body))


async def _signed_root(request: Request, row: VisibleSession) -> tuple[int, str] | None:
    try:
        found = await api_of(request).reading.manifest(row)
    except ApiProblem:
        return None
    signed = _signed(found["manifest"])
    return signed.chunks, signed.root


@router.get(
    "/verification",
    response_model=Report,
    responses={
        **responses(Code.SESSION_NOT_FOUND),
        202: {"model": models.VerificationRunning, "description": "It runs; ask again"},
    },
)
async def verification(
    request: Request,
    row: VisibleSession,
    wait: Annotated[float, Query(ge=0, le=30, description="Seconds to wait for the report")] = 2.0,
) -> Response:
    """The report of `lucid verify`, without a private key: what decrypts is left unchecked."""
    api = api_of(request)
    try:
        found = api.verifications.of(row.session, tag_of(row.body))
    except TooMany:
        raise ApiProblem(
            Code.UNAVAILABLE, "too many sessions wait to be verified", headers={"Retry-After": "30"}
        ) from None
    await asyncio.wait([found.task], timeout=wait)
    if not found.task.done():
        body = {"session": row.session, "done": found.progress.done, "total": found.progress.total}
        return Response(json_bytes(body), 202, {"Retry-After": "2"}, media_type="application/json")
    return reply(request, json_bytes(found.task.result().model_dump(mode="json")))
