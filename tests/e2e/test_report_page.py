"""A page about trained runs, made by the command and read in a browser from the disk."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from core.report.gallery import draw_sample
from core.report.page import claim, write_gallery, write_page
from core.types import Decomposition
from tests import slotformer_runs, tiny_runs
from tests.conftest import MadeOnce, Runner

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SETS = (
    "tetrominoes --train 64 --test 8 --seed 1",
    "obj3d --scenes 10 --frames 6 --width 64 --height 64 --samples 1",
)
PIXELS = "canvas => Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)"


@pytest.fixture(scope="module")
def data(generated: Callable[..., Path]) -> Path:
    return generated("report", *SETS)


@pytest.fixture(scope="module")
def runs(run: Runner, made_once: MadeOnce, data: Path) -> list[Path]:
    """EfficientMORL with two seeds (the first with lively slots), Slot Attention, and SAVi, a few steps each."""

    def train(folder: Path) -> None:
        for name, model, seed in (("first", "EMORL", 1), ("second", "EMORL", 2), ("attention", "SlotAttention", 1)):
            done = run(*tiny_runs.train_words(data, folder / name, f"seed={seed}", model=model))
            assert done.returncode == 0, done.stderr
        tiny_runs.write_lively(folder / "first", 5)
        weights = folder / "first" / "weights"
        (weights / "lively.pth").replace(weights / "tiny-state-5.pth")
        done = run(*slotformer_runs.train_words("savi_obj3d_params", data / "OBJ3D", "savi"), cwd=folder)
        assert done.returncode == 0, done.stderr

    folder = made_once("report-runs", train)
    return [folder / "first", folder / "second", folder / "attention", folder / "checkpoint" / "savi"]


@pytest.fixture(scope="module")
def report(run: Runner, runs: list[Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a page about these runs, one that is not there, and results of an evaluation."""
    folder = tmp_path_factory.mktemp("report")
    rows = [
        {"key": "1", "run": str(runs[0]), "data": "tetrominoes", "model": "b", "scores": scores(0.5, 0.02)},
        {"key": "2", "run": str(runs[1]), "data": "tetrominoes", "model": "a", "scores": scores(0.7, 0.03)},
        {"key": "3", "run": str(runs[2]), "data": "tetrominoes", "model": "c", "scores": {"fg_ari": {"mean": 0.6}}},
        {"key": "4", "run": str(runs[3]), "data": "obj3d", "model": "d", "scores": scores(0.9, 0.01)},
        {"key": "5", "run": str(runs[0]), "data": "clevr3d", "scores": {}, "not_applicable": "no cameras"},
    ]
    results = folder / "results.jsonl"
    results.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["tools/report.py", *runs, folder / "missing", "--out", folder / "page", "--results", results]
    done = run(*words, "--data", "tetrominoes", "obj3d", "--data-root", data, "--samples", 2)
    assert done.returncode == 0, done.stderr
    assert f"{folder / 'missing'}: no such file or folder" in done.stderr
    assert done.stdout.strip() == str(folder / "page" / "index.html")
    return folder / "page"


def scores(fg_ari: float, mse: float) -> dict:
    spread = {"std": 0.1, "low": 0.0, "high": 1.0}
    return {"fg_ari": {"mean": fg_ari, **spread}, "mse": {"mean": mse, **spread}}


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: `apt-get install chromium`")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    with playwright.sync_playwright() as session:
        chromium = session.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser, report: Path) -> Iterator:
    """The page, opened from the disk; nothing may be asked of a network or complained about while a test reads it."""
    opened = browser.new_page(viewport={"width": 1200, "height": 900})
    asked, complaints = [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: complaints.append(str(error)))
    opened.goto((report / "index.html").as_uri())
    yield opened
    opened.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []


def names(page) -> list[str]:
    """First column of the leaderboard."""
    return page.locator("#leaderboard tbody tr td:first-child").all_inner_texts()


def show_gallery(page, name: str):
    """Open a gallery and give back its first sample."""
    page.locator("#gallery select").select_option(label=name)
    sample = page.locator("#gallery .sample").first
    page.locator(f'#gallery-samples[data-gallery="{name}"]').wait_for()
    return sample


def pixels(canvas) -> list[int]:
    return canvas.evaluate(PIXELS)


def test_runs_and_what_could_not_be_read_are_listed(page):
    assert page.locator("#runs tbody tr").count() == 4
    assert [text.split("\n")[0] for text in page.locator("#runs td.name").all_inner_texts()] == [
        *("first", "second", "attention", "savi"),
    ]
    assert "no such file or folder" in page.locator("#runs .notice.error").inner_text()
    assert "emorl" in page.locator("#runs tbody tr").first.inner_text()


def test_the_leaderboard_sorts_by_any_column_and_filters(page):
    assert names(page) == ["second", "attention", "first"]  # of the first data set, the best first
    page.get_by_role("button", name="FG-ARI").click()
    assert names(page) == ["first", "attention", "second"]
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="MSE").click()
    assert names(page) == ["first", "second", "attention"]  # less is better; without the score last
    page.keyboard.press("Enter")
    assert names(page) == ["second", "first", "attention"]
    page.get_by_role("button", name="Model").click()
    assert names(page) == ["second", "first", "attention"]
    page.get_by_role("button", name="Run", exact=True).click()
    assert names(page) == ["attention", "first", "second"]
    page.get_by_label("Data set", exact=True).select_option("obj3d")
    assert names(page) == ["savi"]
    page.get_by_label("Data set", exact=True).select_option("")
    assert len(names(page)) == 4
    assert "first on clevr3d: no cameras" in page.locator("#leaderboard").inner_text()


def test_the_best_of_a_data_set_is_marked(page):
    best = page.locator("#leaderboard td.best").all_inner_texts()
    assert [text.split(" ")[0] for text in best] == ["0.700", "0.0200"]


def test_curves_of_several_runs_are_drawn_and_read(page):
    page.get_by_label("Scalar").select_option(label="train/lr (4 runs)")
    lines = page.locator("#curves path[data-run]")
    assert lines.count() == 4
    before = lines.first.get_attribute("d")
    assert before.count("L") == 5
    page.locator("#curves input[type=range]").fill("0.9")
    assert page.locator("#curves path.raw").count() == 4
    page.get_by_label("logarithmic").check()
    assert lines.first.get_attribute("d") != before
    page.locator("#curves .legend button").first.click()
    assert lines.count() == 3
    page.locator("#curves svg").focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#curves line.cursor").count() == 1


def test_switching_slots_off_changes_the_recomposition(page):
    sample = show_gallery(page, "first on tetrominoes")
    recomposed, recon = sample.locator("canvas.recomposed"), sample.locator(".cells canvas").nth(3)
    whole = pixels(recomposed)
    assert max(abs(a - b) for a, b in zip(whole, pixels(recon))) <= 4  # the sum of all slots
    buttons = sample.locator(".slots button")
    assert buttons.count() == 3
    buttons.first.focus()
    page.keyboard.press("Space")
    assert buttons.first.get_attribute("aria-pressed") == "false"
    holes = pixels(recomposed)
    assert holes != whole
    sample.get_by_label("the others fill in").check()
    filled = pixels(recomposed)
    assert filled not in (holes, whole)
    sample.get_by_role("button", name="all off").click()
    empty = pixels(recomposed)
    assert set(empty) == {176, 208, 255}  # checks, and opaque
    sample.get_by_role("button", name="all on").click()
    assert pixels(recomposed) == whole


def test_slots_without_pictures_of_their_own_show_the_input(page, tmp_path: Path):
    image, masks = torch.rand(1, 3, 12, 16), torch.rand(1, 1, 5, 12, 16)
    found = Decomposition(torch.zeros(1, 1, 3, 12, 16), masks / masks.sum(dim=2, keepdim=True))
    gallery = {"remark": "One.", "hasRgb": False, "samples": [draw_sample(0, image, found)]}
    claim(tmp_path)
    link = write_gallery(tmp_path, 0, "steve", "obj3d", gallery)
    notes = {"errors": [], "results": [], "galleries": []}
    page.goto(write_page(tmp_path, runs=[], results=[], galleries=[link], notes=notes).as_uri())
    sample = show_gallery(page, "steve on obj3d")
    assert "This model decodes no picture per slot" in page.locator("#gallery").inner_text()
    shown, recomposed = pixels(sample.locator("canvas").first), pixels(sample.locator("canvas.recomposed"))
    assert max(abs(a - b) for a, b in zip(shown, recomposed)) <= 1
    sample.locator(".slots button").nth(2).click()
    assert pixels(sample.locator("canvas.recomposed")) != recomposed
    assert "No run could be read" in page.locator("#configurations").inner_text()
    assert "No curves" in page.locator("#curves").inner_text()


def test_a_video_plays_stops_and_is_scrubbed(page):
    sample = show_gallery(page, "savi on obj3d")
    sample.scroll_into_view_if_needed()
    canvas, scrubber = sample.locator(".cells canvas").first, sample.locator("input[type=range]")
    assert sample.get_by_role("button", name="Pause").count() == 1
    seen = {scrubber.input_value()}
    for _ in range(40):
        page.wait_for_timeout(50)
        seen.add(scrubber.input_value())
    assert len(seen) > 2
    sample.get_by_role("button", name="Pause").click()
    scrubber.fill("0")
    first = pixels(canvas)
    scrubber.focus()
    page.keyboard.press("End")
    assert sample.locator("output").inner_text() == "6 / 6"
    assert pixels(canvas) != first
    assert sample.get_by_role("button", name="Play").count() == 1


def test_every_picture_is_described(page):
    show_gallery(page, "savi on obj3d")
    labels = page.locator("#gallery canvas").evaluate_all("all => all.map(one => one.getAttribute('aria-label'))")
    assert len(labels) == 8
    assert all(labels)


def test_configurations_of_two_runs_are_compared(page):
    page.get_by_label("Beside").select_option("second")
    rows = page.locator("#compared tr.differs")
    assert [rows.nth(row).locator("td").all_inner_texts() for row in range(rows.count())] == [["seed", "1", "2"]]
    page.get_by_label("only what differs").uncheck()
    assert page.locator("#compared tbody tr").count() > 10
    assert rows.count() == 1
    page.get_by_label("Beside").select_option("attention")
    assert "arguments" in rows.first.inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(page, scheme: str):
    page.set_viewport_size({"width": 360, "height": 740})
    page.emulate_media(color_scheme=scheme)
    show_gallery(page, "savi on obj3d")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(21, 23, 26)") == (scheme == "dark")


def test_the_same_command_replaces_its_page_and_leaves_other_folders(
    run: Runner, runs: list[Path], report: Path, tmp_path: Path
):
    (tmp_path / "thesis.tex").touch()
    refused = run("tools/report.py", runs[0], "--out", tmp_path)
    assert refused.returncode == 1
    assert "holds files and is no report" in refused.stderr
    copy = shutil.copytree(report, tmp_path / "page")
    done = run("tools/report.py", runs[0], "--out", copy, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No leaderboard: there is no evaluation/results.jsonl" in done.stderr
    assert "its record has no data string. Add --data SPEC" in done.stderr
    assert list((copy / "galleries").iterdir()) == []


def test_without_a_readable_run_there_is_no_page(run: Runner, tmp_path: Path):
    done = run("tools/report.py", tmp_path / "nothing", "--out", tmp_path / "page")
    assert done.returncode == 1
    assert "none of the runs can be read" in done.stderr
    assert not (tmp_path / "page").exists()
    misspelt = run("tools/report.py", tmp_path, "--out", tmp_path / "page", "--dta", "x")
    assert misspelt.returncode == 2
    assert "did you mean '--data'?" in misspelt.stderr
