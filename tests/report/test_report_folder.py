"""The folder of a page: what it holds, and which folders it leaves alone."""

import json
import re
from pathlib import Path

import pytest

from core.data.errors import DataError
from core.report.page import MARK, claim, write_gallery, write_page

NOTES = {"errors": [], "results": [], "galleries": []}


def write(folder: Path, galleries: int, run: str = "run") -> Path:
    links = [write_gallery(folder, number, run, "clevr", {"samples": []}) for number in range(galleries)]
    return write_page(folder, runs=[], results=[], galleries=links, notes=NOTES)


def content_of(index: Path) -> dict:
    (found,) = re.findall(r'<script type="application/json" id="content">(.*?)</script>', index.read_text())
    return json.loads(found)


def test_a_page_is_replaced_and_its_old_galleries_go(tmp_path: Path):
    out = tmp_path / "report"
    claim(out)
    write(out, 3)
    assert sorted(path.name for path in (out / "galleries").iterdir()) == ["0.js", "1.js", "2.js"]
    (out / "mine.txt").write_text("kept")
    claim(out)
    index = write(out, 1)
    assert [path.name for path in (out / "galleries").iterdir()] == ["0.js"]
    assert (out / "mine.txt").read_text() == "kept"
    assert json.loads((out / MARK).read_text())["galleries"] == ["galleries/0.js"]
    assert content_of(index)["galleries"] == [{"run": "run", "data": "clevr", "file": "galleries/0.js"}]


def test_a_folder_that_is_no_report_is_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match=r"holds files and is no report. Name another folder, or add --force"):
        claim(tmp_path)
    claim(tmp_path, force=True)
    write(tmp_path, 1)
    assert (tmp_path / "thesis.tex").read_text() == "x"
    with pytest.raises(DataError, match="is a file"):
        claim(tmp_path / "thesis.tex")


def test_names_cannot_leave_their_script(tmp_path: Path):
    claim(tmp_path)
    index = write(tmp_path, 1, run="</script><script>alert(1)</script>")
    assert "alert(1)</script>" not in index.read_text()
    assert content_of(index)["galleries"][0]["run"] == "</script><script>alert(1)</script>"


def test_numbers_that_json_lacks_are_null(tmp_path: Path):
    claim(tmp_path)
    rows = [{"scores": {"ari": float("nan"), "mse": 0.5}}]
    index = write_page(tmp_path, runs=[], results=rows, galleries=[], notes=NOTES)
    assert content_of(index)["results"] == [{"scores": {"ari": None, "mse": 0.5}}]


def test_the_page_asks_for_nothing_but_its_own_files(tmp_path: Path):
    claim(tmp_path)
    write(tmp_path, 1)
    for path in tmp_path.iterdir():
        if path.suffix in (".html", ".js", ".css"):
            found = set(re.findall(r"""(?:https?:)?//[\w.-]+\.\w+[^\s"']*""", path.read_text()))
            assert found <= {"http://www.w3.org/2000/svg"}, path  # the name of SVG, which nobody fetches
    named = re.findall(r'(?:src|href)="([^"#]+)"', (tmp_path / "index.html").read_text())
    assert all(name.startswith("data:") or (tmp_path / name).is_file() for name in named)
