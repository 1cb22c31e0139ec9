"""Reports for the tests that read them as their readers do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from report_fixture import Open

from icdtune.files import write_json
from icdtune.study.report import render_report


@pytest.fixture
def open_report(browser: Browser, tmp_path: Path) -> Iterator[Open]:
    """Render results and open the page; at the end, no page may have complained or asked for more."""
    complaints: list[str] = []
    requests: list[str] = []
    pages: list[Page] = []

    def open_(results: dict[str, Any], scheme: str = "light", width: int = 1280) -> Page:
        write_json(tmp_path / "results.json", results)
        path = render_report(tmp_path)
        page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)  # type: ignore[arg-type]
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(path.as_uri())
        pages.append(page)
        return page

    yield open_
    for page in pages:
        page.close()
    assert complaints == []
    assert {url for url in requests if url != "data:,"} <= {(tmp_path / "report.html").as_uri()}
