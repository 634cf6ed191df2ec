"""Small data sets of every source: published ones in their exact schemas, and a user's own; with random pictures.

Each writer fills a folder and returns the images that it wrote, by the name of the source that reads it.
"""

import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from diffalign.core.files import sha256_bytes
from diffalign.data import votes
from tests.helpers import own_pairs, pickapic, voters

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""Hugging Face's Image in Parquet."""
HUB = "https://huggingface.co/datasets/data-is-better-together/open-image-preferences-v1/resolve/main/"


@cache
def picture(seed: int) -> bytes:
    """A PNG of 8 x 8 pixels; another seed gives other bytes."""
    return pickapic.image(seed, (8, 8), "PNG")


def put(folder: Path, names: list[str]) -> dict[str, bytes]:
    """Writes a picture for each path."""
    found = {name: picture(place) for place, name in enumerate(names)}
    for name, data in found.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return found


def as_json(path: Path, rows: list[Any]) -> None:
    """Writes rows as one array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def as_parquet(path: Path, columns: dict[str, pa.DataType], rows: list[dict[str, Any]]) -> None:
    """Writes rows in a schema."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows, pa.schema(list(columns.items()))), path, row_group_size=4)


def hpdv2(folder: Path) -> set[bytes]:
    """Two choices, one of each side; a test row of three images that two raters ranked, and one with the mean only."""
    train = [
        {"human_preference": [1, 0], "prompt": "a red cat", "file_path": ["1.png", "2.png"]},
        {"human_preference": [0, 1], "prompt": "a dog", "file_path": ["3.png", "4.png"]},
    ]
    paths = ["a/5.png", "a/6.png", "a/7.png"]
    raw = [{"rank": [1, 2, 3], "user_hash": "u1"}, {"rank": [1, 1, 2], "user_hash": "u2"}]
    test = [
        {"prompt": "a bird", "image_path": paths, "rank": [1, 2, 3], "raw_annotations": raw},
        {"prompt": "a fish", "image_path": ["a/8.png", "a/9.png"], "rank": [2, 1], "raw_annotations": []},
    ]
    as_json(folder / "train.json", train)
    as_json(folder / "test.json", test)
    found = put(folder, [f"train/{n}.png" for n in range(1, 5)] + [f"test/a/{n}.png" for n in range(5, 10)])
    return set(found.values())


def hpdv3(folder: Path) -> set[bytes]:
    """Votes in either order, none, a low confidence, and shares that aren't counts."""
    says: list[dict[str, Any]] = [
        {"confidence": 0.98, "choice_dist": [12.0, 7.0]},
        {"confidence": 0.99, "choice_dist": [3.0, 16.0]},
        {"confidence": None, "choice_dist": None},
        {"confidence": 0.6, "choice_dist": [10.0, 9.0]},
        {"confidence": 1.0, "choice_dist": [1.0, 0.0]},
        {"confidence": 0.97, "choice_dist": None},
    ]
    rows = [
        {"prompt": f"a scene, number {n}", "path1": f"images/{n}-w.png", "path2": f"images/{n}-l.png"}
        | said
        | {"model1": "flux", "model2": "real_images"}
        for n, said in enumerate(says)
    ]
    as_json(folder / "train.json", rows[:5])
    as_json(folder / "test.json", rows[5:])
    return set(put(folder, [row[key] for row in rows for key in ("path1", "path2")]).values())


def imagereward(folder: Path, zipped: bool = True) -> set[bytes]:
    """A prompt with ranks 1, 2, 2, one with two images, and one with a single image; images in a zip or unpacked."""
    columns = {
        **dict.fromkeys(("image_path", "prompt_id", "prompt", "classification"), pa.string()),
        **dict.fromkeys(("image_amount_in_total", "rank", "overall_rating"), pa.int64()),
        **dict.fromkeys(("image_text_alignment_rating", "fidelity_rating"), pa.int64()),
    }
    rows = [
        {
            "image_path": f"images/train/train_1/{n}.webp",
            "prompt_id": prompt_id,
            "prompt": f"the prompt {prompt_id}",
            "classification": "Outdoor Scenes",
            "image_amount_in_total": 3,
            "rank": rank,
            "overall_rating": 6,
            "image_text_alignment_rating": 5,
            "fidelity_rating": 4,
        }
        for n, (prompt_id, rank) in enumerate(
            [("001-0001", 1), ("001-0001", 2), ("001-0002", 2), ("001-0001", 2), ("001-0002", 1), ("001-0003", 1)]
        )
    ]
    as_parquet(folder / "metadata-train.parquet", columns, rows)
    found = {row["image_path"]: picture(n) for n, row in enumerate(rows)}
    if not zipped:
        return set(put(folder, list(found)).values())
    (folder / "images/train").mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / "images/train/train_1.zip", "w") as archive:
        for name, data in found.items():
            archive.writestr(Path(name).name, data)
    return set(found.values())


def open_image_preferences(folder: Path) -> set[bytes]:
    """The binarized set: the chosen image and the rejected one."""
    text = dict.fromkeys(("chosen_model", "rejected_model", "evolution", "category", "sub_category"), pa.string())
    columns = {"id": pa.string(), "prompt": pa.string(), "chosen": IMAGE, "rejected": IMAGE, **text}
    rows = [
        {
            "id": str(n),
            "prompt": f"a thing, number {n}",
            "chosen": {"bytes": picture(2 * n), "path": f"{n}.jpg"},
            "rejected": {"bytes": picture(2 * n + 1), "path": f"{n}.jpg"},
            "chosen_model": "dev",
            "rejected_model": "sd",
            "evolution": "simplified",
            "category": "Anime",
            "sub_category": "concept art",
        }
        for n in range(6)
    ]
    as_parquet(folder / "data/train-00000-of-00001.parquet", columns, rows)
    return {picture(n) for n in range(12)}


def open_image_results(folder: Path) -> set[bytes]:
    """The raw answers: each of the four, one that wasn't submitted, and a row without any."""
    answers = [["image_1", "image_2"], ["both_good"], ["both_bad", "image_1"], []]
    texts = dict.fromkeys([f"preference.responses{end}" for end in ("", ".users", ".status")], pa.list_(pa.string()))
    text = dict.fromkeys(("model_1", "model_2", "evolution", "category", "sub_category"), pa.string())
    columns = {
        **dict.fromkeys(("id", "status", "_server_id"), pa.string()),
        "images": pa.struct([(name, pa.string()) for name in ("image_1", "image_2", "prompt")]),
        **text,
        **texts,
    }
    rows = [
        {
            "id": str(n),
            "status": "completed",
            "_server_id": f"s{n}",
            "images": {
                "image_1": f"{HUB}image_simplified_sd/{n}.jpg",
                "image_2": f"{HUB}image_simplified_dev/{n}.jpg",
                "prompt": f"a place, number {n}",
            },
            "model_1": "sd",
            "model_2": "dev",
            "evolution": "simplified",
            "category": "Anime",
            "sub_category": "concept art",
            "preference.responses": said,
            "preference.responses.users": [f"r{place}" for place in range(len(said))],
            "preference.responses.status": ["submitted", "draft"][: len(said)] if n == 2 else ["submitted"] * len(said),
        }
        for n, said in enumerate(answers)
    ]
    as_parquet(folder / "data/train-00000-of-00001.parquet", columns, rows)
    names = [f"image_simplified_{model}/{n}.jpg" for n in range(4) for model in ("sd", "dev")]
    return set(put(folder, names).values())


def vote(path: str, told: bool = True) -> dict[str, Any]:
    """One vote of Rapidata's; about half of them don't tell who voted."""
    who = {"country": "IN", "language": "en", "userScore": 0.78}
    return {"votedFor": path} | ({"userDetails": who} if told else {})


def rapidata(folder: Path) -> set[bytes]:
    """The 700k set's columns: counts of 20 to 6, 13 to 13, 0 to 26, and no vote at all."""
    columns = {
        "prompt": pa.string(),
        "image1": IMAGE,
        "image2": IMAGE,
        **dict.fromkeys(("votes_image1", "votes_image2"), pa.int64()),
        **dict.fromkeys(("model1", "model2", "detailed_results", "image1_path", "image2_path"), pa.string()),
    }
    rows = []
    for n, (one, other) in enumerate([(20, 6), (13, 13), (0, 26), (0, 0)]):
        paths = f"flux/{n}_0.jpg", f"dalle-3/{n}_0.jpg"
        details = {"votes": [vote(paths[0])] * one + [vote(paths[1], told=False)] * other, "metadata": {}}
        rows.append(
            {
                "prompt": f"a machine, number {n}",
                "image1": {"bytes": picture(2 * n), "path": None},
                "image2": {"bytes": picture(2 * n + 1), "path": None},
                "votes_image1": one,
                "votes_image2": other,
                "model1": "flux",
                "model2": "dalle-3",
                "detailed_results": json.dumps(details),
                "image1_path": paths[0],
                "image2_path": paths[1],
            }
        )
    as_parquet(folder / "data/train_0001-00000-of-00001.parquet", columns, rows)
    return {picture(n) for n in range(8)}


def rapidata_axes(folder: Path) -> set[bytes]:
    """A set *_t2i_human_preference with two of three axes: shares weighted by score, votes in the details."""
    axes = ("preference", "alignment")
    columns = {"prompt": pa.string(), "image1": IMAGE, "image2": IMAGE, "model1": pa.string(), "model2": pa.string()}
    for axis in axes:
        columns |= {f"weighted_results_image{i}_{axis}": pa.float32() for i in (1, 2)}
        columns |= {f"detailed_results_{axis}": pa.string()}
    rows = []
    for n, share in enumerate([0.75, 0.25]):
        row = {
            "prompt": f"a tree, number {n}",
            "image1": {"bytes": picture(2 * n), "path": None},
            "image2": {"bytes": picture(2 * n + 1), "path": None},
            "model1": "imagen",
            "model2": "ideogram",
        }
        for axis, first in (("preference", share), ("alignment", 0.5)):
            details = json.dumps([vote("imagen_1.jpg")] * 10) if axis == "preference" else None
            row |= {
                f"weighted_results_image1_{axis}": first,
                f"weighted_results_image2_{axis}": 1 - first,
                f"detailed_results_{axis}": details,
            }
        rows.append(row)
    as_parquet(folder / "data/train-00000-of-00001.parquet", columns, rows)
    return {picture(n) for n in range(4)}


def pickapic_bytes(folder: Path) -> set[bytes]:
    """Pick-a-Pic with its images."""
    rows = [
        pickapic.row(n, answer, jpg_0=picture(2 * n), jpg_1=picture(2 * n + 1))
        for n, answer in enumerate(("a", "b", "tie", "a"))
    ]
    pickapic.write(folder / "train-00000.parquet", rows, row_group_size=2)
    return {picture(n) for n in range(8)}


def pickapic_urls(folder: Path) -> set[bytes]:
    """Pick-a-Pic without its images, and those of all rows but the last."""
    rows = [pickapic.row(n, answer, jpg_0=None, jpg_1=None) for n, answer in enumerate(("a", "b", "tie", "a"))]
    table = pickapic.table(rows).drop_columns(["jpg_0", "jpg_1"])
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "train-00000.parquet")
    return set(put(folder, [f"images/{row[f'image_{i}_uid']}.jpg" for row in rows[:3] for i in (0, 1)]).values())


def pickapic_webdataset(folder: Path) -> set[bytes]:
    """Two tars whose keys repeat, a sample of each answer, and a file that is no sample's."""
    folder.mkdir(parents=True, exist_ok=True)
    answers = [[(1.0, 0.0), (0.0, 1.0)], [(0.5, 0.5), (0.0, 0.0)]]
    seeds = iter(range(8))
    for number, labels in enumerate(answers):
        with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
            for key, pair in enumerate(labels):
                sample = {
                    "jpg_0.jpg": picture(next(seeds)),
                    "jpg_1.jpg": picture(next(seeds)),
                    "label_0.txt": str(pair[0]).encode(),
                    "label_1.txt": str(pair[1]).encode(),
                    "original_prompt.txt": f"a boat, number {number} {key}".encode(),
                    "extra.pyd": b"cos\nsystem\n",
                }
                for ending, data in sample.items():
                    member = tarfile.TarInfo(f"{key}.{ending}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return {picture(n) for n in range(8)}


def two_folders(folder: Path) -> set[bytes]:
    """A user's own: the better images, the worse ones, captions beside the first."""
    found = put(folder, [f"{side}/{n}.png" for n in range(4) for side in ("w", "l")])
    for n in range(4):
        (folder / f"w/{n}.txt").write_text(f"a house, number {n}")
    return set(found.values())


def own_rows() -> list[dict[str, Any]]:
    """Rows of a table of one's own: paths, and an answer in words."""
    said = ("left", "right", "tie", "left")
    return [
        {"prompt": f"a bridge, number {n}", "left": f"images/{n}-l.png", "right": f"images/{n}-r.png", "winner": answer}
        for n, answer in enumerate(said)
    ]


def own_table(folder: Path, suffix: str) -> set[bytes]:
    """The rows in a table, their images beside."""
    folder.mkdir(parents=True, exist_ok=True)
    own_pairs.table(folder, suffix, own_rows())
    return set(put(folder, [row[side] for row in own_rows() for side in ("left", "right")]).values())


def hub_rows() -> pa.Table:
    """Pairs with images inside, the better one chosen."""
    return own_pairs.hub_table([(f"a road, number {n}", picture(2 * n), picture(2 * n + 1)) for n in range(4)])


def hub_parquet(folder: Path) -> set[bytes]:
    """A data set of Hugging Face as Parquet."""
    own_pairs.parquet(folder / "data/train-00000-of-00001.parquet", hub_rows())
    return {picture(n) for n in range(8)}


def hub_arrow(folder: Path) -> set[bytes]:
    """The same as `save_to_disk` writes it."""
    own_pairs.saved_to_disk(folder, {"train": hub_rows()})
    return {picture(n) for n in range(8)}


def arena(folder: Path) -> set[bytes]:
    """Votes on images in the arena's folder."""
    names = [votes.IMAGES + "/" + sha256_bytes(picture(n)) for n in range(4)]
    put(folder, names)
    shown = [Path(name).name for name in names]
    rows = [
        voters.vote(prompt=f"a lamp, number {n}", pair_id=str(n), image_a=shown[2 * (n % 2)], image_b=shown[1])
        for n in range(4)
        if n % 2 == 0 or shown[1] != shown[2]
    ]
    pq.write_table(votes.table(rows), folder / "votes.parquet")
    return {picture(n) for n in range(4)}


FIXTURES: dict[str, tuple[str, dict[str, Any], Callable[[Path], set[bytes]]]] = {
    "arena": ("arena", {"axis": "overall", "failed_checks": "drop"}, arena),
    "folders": ("folders", {}, two_folders),
    "huggingface": ("huggingface", {}, hub_parquet),
    "huggingface_arrow": ("huggingface", {}, hub_arrow),
    "table_csv": ("table", {}, partial(own_table, suffix=".csv")),
    "table_json": ("table", {}, partial(own_table, suffix=".json")),
    "table_jsonl": ("table", {}, partial(own_table, suffix=".jsonl")),
    "hpdv2": ("hpdv2", {}, hpdv2),
    "hpdv3": ("hpdv3", {"min_confidence": 0.95}, hpdv3),
    "imagereward": ("imagereward", {}, imagereward),
    "open_image_preferences": ("open_image_preferences", {}, open_image_preferences),
    "open_image_results": ("open_image_preferences", {}, open_image_results),
    "pickapic": ("pickapic", {"splits": {}}, pickapic_bytes),
    "pickapic_urls": ("pickapic_urls", {}, pickapic_urls),
    "pickapic_webdataset": ("pickapic_webdataset", {}, pickapic_webdataset),
    "rapidata": ("rapidata", {"axis": "coherence"}, rapidata),
    "rapidata_groups": ("rapidata", {"groups": "country"}, rapidata),
    "rapidata_axes": ("rapidata", {}, rapidata_axes),
}
"""By its name: the source that reads it, its settings, its writer."""
