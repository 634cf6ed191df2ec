"""`score`: images from folders, tables and Parquet; hostile names, captions and files; means by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from diffalign.commands import score
from diffalign.config.params import Params
from diffalign.core.errors import UserError
from diffalign.generation.pipeline import png
from diffalign.shapes import oracle, scenes
from tests.helpers.project import make_params

RED, BLUE = "a large red circle on a white background", "a large blue square on a black background"


@pytest.fixture
def params(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    monkeypatch.chdir(tmp_path)
    return make_params(tmp_path, {"base": {"method": "none"}})


def drawn(text: str, size: int = 64) -> bytes:
    scene = scenes.parse_caption(text)
    assert scene is not None
    return png(scenes.render(scene, size))


def put(name: str, data: bytes, caption: str | None = None) -> None:
    path = Path("shown") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, "utf-8")


def lines(name: str = "shown") -> dict[str, dict[str, Any]]:
    text = Path(f"runs/score/{name}.jsonl").read_text("utf-8")
    return {line["file"]: line for line in map(json.loads, text.splitlines())}


def test_a_folder_with_captions_beside_its_images(params: Params) -> None:
    """Two sizes and two formats; the scores are the oracle's own, and so is their mean."""
    put("a.png", drawn(RED), f" {RED}\n")
    put("deep/er/b.PNG", drawn(BLUE, 128), BLUE)
    put("c.png", drawn(RED), "<script>alert(1)</script>")
    text = score.run(params, Path("shown"), ["oracle", "jpeg_compressibility"], None, None)
    found = lines()
    assert set(found) == {"a.png", "c.png", "deep/er/b.PNG"}
    for name, caption in (("a.png", RED), ("deep/er/b.PNG", BLUE)):
        pixels = np.asarray(Image.open(Path("shown") / name))
        assert found[name]["scores"]["oracle"] == oracle.score(pixels, caption).oracle
    assert found["c.png"]["scores"]["oracle"] is None and found["c.png"]["scores"]["jpeg_compressibility"] < 0
    mean = np.mean([found[name]["scores"]["oracle"] for name in ("a.png", "deep/er/b.PNG")])
    assert f"{mean:.4g}" in next(row for row in text.splitlines() if row.startswith("oracle "))
    assert "1 of 3" in text and "3 images: runs/score/shown.jsonl" in text


def test_what_cant_be_read_is_left_out_and_said(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    put("fine.png", drawn(RED), RED)
    put("cut.png", drawn(RED)[:200], RED)
    put("text.png", b"<svg onload=alert(1)>", RED)
    put("silent.png", drawn(RED))
    put("empty.png", b"", RED)
    (Path("shown") / "latin.txt").write_bytes(b"caf\xe9")
    put("latin.png", drawn(RED))
    (Path("shown") / b"odd\xff \n name.png".decode("utf-8", "surrogateescape")).write_bytes(drawn(RED))
    score.run(params, Path("shown"), ["oracle"], None, None)
    assert set(lines()) == {"fine.png"}
    said = capsys.readouterr().err
    assert "left out: 3 images, an image without a caption" in said
    assert "1 image, an image cut short ('cut.png'" in said
    assert "1 image, bytes that aren't a JPEG, PNG or WebP" in said and "1 image, an image without bytes" in said


def test_a_table_names_files_and_captions(params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    """Quoted captions with commas and line ends; paths that lead out of the folder and missing files are rejects."""
    put("a b.png", drawn(RED))
    Path("secret.png").write_bytes(drawn(RED))
    files = ('"a b.png"', "../secret.png", Path("secret.png").resolve(), "none.png")
    Path("table.csv").write_text("File_Name,text\n" + "".join(f'{file},"{RED}"\n' for file in files))
    score.run(params, Path("shown"), ["oracle"], Path("table.csv"), Path("out.jsonl"))
    (line,) = Path("out.jsonl").read_text().splitlines()
    assert json.loads(line)["file"] == "a b.png"
    said = capsys.readouterr().err
    assert "2 images, a file outside the folder" in said and "1 image, an image without bytes ('none.png'" in said


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "file\nx.png\n", 'file,prompt\n"x'])
def test_a_table_that_isnt_one_is_refused(params: Params, text: str) -> None:
    put("a.png", drawn(RED))
    Path("table.csv").write_text(text)
    with pytest.raises(UserError, match=r"expected a (CSV|header)"):
        score.run(params, Path("shown"), ["oracle"], Path("table.csv"), None)


def test_parquet_with_bytes_or_structs(params: Params) -> None:
    images = pa.array([{"bytes": drawn(RED), "path": "x"}, {"bytes": None, "path": "y"}])
    pq.write_table(pa.table({"image": images, "caption": [RED, RED]}), "a.parquet")
    pq.write_table(pa.table({"jpg": [drawn(BLUE)], "prompt": [BLUE]}), "b.parquet")
    for name in ("a", "b"):
        score.run(params, Path(f"{name}.parquet"), ["oracle"], None, None)
        (line,) = lines(name).values()
        assert line["file"] == f"{name}.parquet:0" and line["scores"]["oracle"] > 0.9
    pq.write_table(pa.table({"x": [1]}), "c.parquet")
    with pytest.raises(UserError, match="expected a column of images"):
        score.run(params, Path("c.parquet"), ["oracle"], None, None)
    Path("c.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match="isn't a Parquet file"):
        score.run(params, Path("c.parquet"), ["oracle"], None, None)


def test_what_cant_be_scored_at_all_is_the_users_error(params: Params) -> None:
    with pytest.raises(UserError, match="nothing: expected a folder of images or a Parquet file, found nothing there"):
        score.run(params, Path("nothing"), ["oracle"], None, None)
    Path("shown").mkdir()
    with pytest.raises(UserError, match=r"shown: expected images \(.png"):
        score.run(params, Path("shown"), ["oracle"], None, None)
    put("a.png", b"x", RED)
    with pytest.raises(UserError, match="found none that can be used"):
        score.run(params, Path("shown"), ["oracle"], None, None)
    with pytest.raises(UserError, match="found 'clip'"):
        score.run(params, Path("shown"), ["clip"], None, None)
    with pytest.raises(UserError, match="models/rewards/pickscore"):
        score.run(params, Path("shown"), ["pickscore"], None, None)
