"""The grid of an evaluation: what flags mean, and names that stay."""

from pathlib import Path

import pytest

from gpstoken_jax.evaluation.grid import (
    HELD_OUT,
    Dataset,
    distinct_names,
    find_checkpoints,
    make_grid,
    parse_datasets,
    parse_sizes,
    parse_token_counts,
)
from gpstoken_jax.runtime.file_names import fold

OWN = Dataset(HELD_OUT)


def test_every_combination_checkpoint_by_checkpoint():
    runs = [Path("runs/a"), Path("runs/b")]
    grid = make_grid(runs, [Dataset("x"), Dataset("y")], [(32, 32), (32, 64)], [4, 8])
    assert len(grid) == 16 and len({cell.name for cell in grid}) == 16
    assert [cell.checkpoint for cell in grid] == [runs[0]] * 8 + [runs[1]] * 8
    assert grid[1].name == "a-x-32x32-8_tokens"
    assert grid[-1].name == "b-y-32x64-8_tokens"


def test_a_larger_grid_finds_the_cells_of_a_smaller():
    small = make_grid([Path("a")], [OWN], [], [64])
    large = make_grid([Path("a"), Path("b")], [OWN, Dataset("x")], [], [64, 128])
    assert {cell.name for cell in small} < {cell.name for cell in large}


def test_sizes_and_counts_that_are_not_given_are_the_models_own():
    (cell,) = make_grid([Path("runs/a b")], [OWN], [], [])
    assert cell.size is None and cell.num_tokens is None
    assert cell.name == "a b-held_out"


def test_no_two_cells_share_a_directory():
    """Whatever the names of data sets and runs; on disks that ignore case, too."""
    names = ["b-c", "c", "B-c", "x/y", "x_y", "..", "con", "a:b", "é", "e\u0301", "", "."]
    grid = make_grid([Path("r/a"), Path("r/a-b"), Path("r/A")], list(map(Dataset, names)), [], [])
    found = [cell.name for cell in grid]
    assert len({fold(name) for name in found}) == len(grid) == 36
    assert not any("/" in name or name in ("", ".", "..") for name in found)


def test_checkpoints_of_one_name_are_told_apart():
    assert distinct_names([Path("x/run"), Path("y/run")]) == ["x_run", "y_run"]
    assert distinct_names([Path("x/run"), Path("y/other")]) == ["run", "other"]
    with pytest.raises(ValueError, match="given twice"):
        distinct_names([Path("x/run"), Path("x/run")])


def test_patterns_of_checkpoints(tmp_path):
    for name in ("b", "a", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    found = find_checkpoints([f"{tmp_path}/c", f"{tmp_path}/*"])
    assert [path.name for path in found] == ["c", "a", "b"]
    with pytest.raises(ValueError, match=r"no directory is called .*/d\*"):
        find_checkpoints([f"{tmp_path}/d*"])


@pytest.mark.parametrize("name", ["[ab]", "run*", "r?n", "a b", "[", "**"])
def test_a_path_that_is_there_is_no_pattern(tmp_path, name):
    for other in (name, "a", "runs", "ran"):
        (tmp_path / other).mkdir()
    assert [path.name for path in find_checkpoints([f"{tmp_path}/{name}"])] == [name]


def test_sizes():
    assert parse_sizes(["256", "256x512", "256X512", "256"]) == [(256, 256), (256, 512)]
    for wrong in ("256x", "x256", "0", "-256", "256x512x3", "large"):
        with pytest.raises(ValueError, match=f"--resolution={wrong} must be"):
            parse_sizes([wrong])


def test_token_counts():
    assert parse_token_counts(["64", " 128", "64"]) == [64, 128]
    for wrong in ("0", "-1", "6.4", "many", ""):
        with pytest.raises(ValueError, match=f"--num_tokens={wrong} must be"):
            parse_token_counts([wrong])


def test_datasets_by_name_or_directory(tmp_path):
    (tmp_path / "photos").mkdir()
    prepared = tmp_path / "prepared" / "set" / "1.0.0"
    prepared.mkdir(parents=True)
    (prepared / "dataset_info.json").touch()
    named, plain = parse_datasets([f"mine={tmp_path / 'photos'}", str(tmp_path / "prepared")])
    assert named == Dataset("mine", (("folder", str(tmp_path / "photos")),))
    assert plain == Dataset("prepared", (("tfds_dir", str(tmp_path / "prepared")),))
    with pytest.raises(ValueError, match="gone is no directory"):
        parse_datasets([str(tmp_path / "gone")])
    with pytest.raises(ValueError, match="two are called photos"):
        parse_datasets([str(tmp_path / "photos")] * 2)
