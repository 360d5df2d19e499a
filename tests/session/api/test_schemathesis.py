"""Requests made up from the served OpenAPI document: none is answered otherwise than it says.

`ignored_auth` and `unsupported_method` are among the checks: nothing answers without a token,
and nothing but GET is taken.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from tests.session.api.conftest import BASE, Running
from tests.session.api.rdp_events import DESKTOP, SERVER
from tests.session.api.test_nodes import tell_of_nodes
from tests.session.api.test_rdp import told

pytestmark = pytest.mark.stack

CONFIG = """
[parameters]
"path.session" = "{session}"
"path.index" = 1
"path.node" = "desk7"
"path.pool" = "p"
"path.server" = "{server}"
"path.desktop" = "{desktop}"
"""
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,negative_data_rejection,"
    "unsupported_method,allow_header_conformance,ignored_auth"
)
SECONDS = 240


@pytest.mark.parametrize("known", [True, False], ids=["a session that is there", "any id"])
async def test_every_answer_is_one_that_the_document_has(
    api: Running, tmp_path: Path, known: bool
) -> None:
    session = await api.yard.whole(frames=40)
    await tell_of_nodes(api)
    await told(api)
    await api.until(f"{BASE}/sessions/{session}/chunks/1/proof", lambda found: found.status == 200)
    config = tmp_path / "schemathesis.toml"
    config.write_text(
        CONFIG.format(session=session, server=SERVER, desktop=DESKTOP) if known else ""
    )
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(config),
        "run", f"http://127.0.0.1:{api.port}{BASE}/openapi.json",
        "--url", f"http://127.0.0.1:{api.port}",
        "--header", f"Authorization: Bearer {api.admin}", "--checks", CHECKS,
        "--phases", "coverage,fuzzing" if known else "fuzzing", "--max-examples", "8",
        "--exclude-path", f"{BASE}/stream", "--exclude-path", f"{BASE}/sessions/{{session}}/live",
        "--request-timeout", "20", "--no-color", "--seed", "1",
        cwd=tmp_path, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()[:12000]
