"""Shards of tokens: what goes in comes out, in any number of processes; faults are named."""

import numpy as np
import pytest

from gpstoken_jax.generation.layouts.collect import layouts_of_tokens
from gpstoken_jax.runtime.files import TEMPORARY_SUFFIX
from gpstoken_jax.runtime.manifest import OutputError
from gpstoken_jax.tokens import TokensError, TokenWriter, open_tokens
from gpstoken_jax.tokens.batches import TokenBatches
from gpstoken_jax.tokens.coded import encode_rows
from gpstoken_jax.tokens.statistics import Moments

L, C = 3, 4
SETTINGS = {"step": 7, "model": {"sizes": (1, 2)}, "checkpoint": "runs/a"}


def _rows(positions):
    """Rows that tell which image they are of."""
    rng = np.random.default_rng(list(positions))
    shape = len(positions), L
    initial = rng.uniform(0.1, 0.9, (*shape, 5)).astype(np.float32)
    return {
        "geometry": initial + rng.normal(0, 0.01, initial.shape).astype(np.float32),
        "initial_geometry": initial,
        "features": rng.normal(3, 2, (*shape, C)).astype(np.float32),
        "label": np.array(positions) % 3,
        "size": np.array([(100 + p, 200 + p) for p in positions]).reshape(-1, 2),
        "position": np.array(positions),
    }


def _names(positions):
    return [f"a/é{p}.jpg" for p in positions]


def _write_all(directory, num_images, shard_size=4, processes=1, **options):
    for process in range(processes):
        writer = TokenWriter(
            directory,
            SETTINGS,
            num_images,
            shard_size=shard_size,
            process_index=process,
            process_count=processes,
            **options,
        )
        for shard in writer.unfinished():
            positions = writer.shards[shard]
            writer.write(shard, _rows(positions), _names(positions), {})
        if process < processes - 1:
            writer.close()
    return writer.finish({"note": 1})


@pytest.mark.parametrize(("num_images", "processes"), [(1, 1), (4, 1), (11, 1), (11, 3), (2, 3)])
def test_what_goes_in_comes_out(num_images, processes, tmp_path):
    index = _write_all(tmp_path, num_images, processes=processes)
    tokens = open_tokens(tmp_path)
    assert len(tokens) == index["num_tokenized"] == num_images
    assert sorted(example.position for example in tokens) == list(range(num_images))
    expected = {}
    for process in range(processes):
        own = range(process, num_images, processes)
        for start in range(0, len(own), 4):
            positions = own[start : start + 4]
            rows = _rows(positions)
            for i, position in enumerate(positions):
                expected[position] = {key: rows[key][i] for key in rows}
    for example in tokens:
        row = expected[example.position]
        assert example.name == f"a/é{example.position}.jpg"
        assert example.label == row["label"]
        assert example.size == tuple(row["size"])
        for key in ("geometry", "initial_geometry", "features"):
            np.testing.assert_array_equal(getattr(example, key), row[key])
        np.testing.assert_array_equal(example.tokens[:, :5], row["geometry"])
        np.testing.assert_array_equal(example.tokens[:, 5:], row["features"])


def test_reading_across_shards_is_reading_one_by_one(tmp_path):
    _write_all(tmp_path, 11)
    tokens = open_tokens(tmp_path)
    for start, stop in ((0, 11), (3, 9), (4, 8), (10, 99)):
        rows, names = tokens.read(start, stop)
        assert names == [tokens[i].name for i in range(start, min(stop, 11))]
        for i, tokens_of_one in enumerate(rows["features"]):
            np.testing.assert_array_equal(tokens_of_one, tokens[start + i].features)
    np.testing.assert_array_equal(tokens[-1].features, tokens[10].features)
    with pytest.raises(IndexError):
        tokens[11]


@pytest.mark.parametrize(("storage", "bits"), [("float16", 11), ("bfloat16", 8)])
def test_short_storage_rounds_features_only(storage, bits, tmp_path):
    _write_all(tmp_path, 4, storage=storage)
    rows, stored = _rows(range(4)), open_tokens(tmp_path)
    assert stored.header["storage"] == storage
    for i in range(4):
        assert stored[i].features.dtype == np.float32
        np.testing.assert_array_equal(stored[i].geometry, rows["geometry"][i])
        np.testing.assert_allclose(stored[i].features, rows["features"][i], rtol=2.0**-bits)


@pytest.mark.parametrize("bits", [1, 6, 10])
def test_tokens_in_bits_come_back_as_their_levels(bits, tmp_path):
    _write_all(tmp_path / "exact", 11, processes=2)
    _write_all(tmp_path / "coded", 11, processes=2, bits=bits)
    exact, stored = (open_tokens(tmp_path / name) for name in ("exact", "coded"))
    assert stored.header["bits"] == bits and len(stored) == 11
    for one, other in zip(exact, stored, strict=True):
        assert (one.name, one.label, one.size, one.position) == (
            other.name, other.label, other.size, other.position
        )  # fmt: skip
        assert other.initial_geometry is None and other.tokens.dtype == np.float32
    rows, names = stored.read(0, 11)
    assert names == exact.names()
    for key in ("geometry", "features"):
        np.testing.assert_array_equal(rows[key], [getattr(one, key) for one in stored])
    wanted = exact.read(0, 4)[0]  # a shard, which has its own levels
    for key in ("geometry", "features"):
        half_a_step = np.ptp(wanted[key], axis=(0, 1)) / (2**bits - 1) / 2
        assert (np.abs(rows[key][:4] - wanted[key]) <= 1.001 * half_a_step + 1e-6).all()


def test_tokens_of_tiles_are_in_levels_of_their_tiles(tmp_path):
    tiles = (L, 1)
    _write_all(tmp_path, 3, bits=5, tiles=tiles)
    rows, wanted = open_tokens(tmp_path).read(0, 3)[0], _rows(range(3))
    _, tokens = encode_rows(wanted["geometry"], wanted["features"], 5, tiles)
    np.testing.assert_array_equal(rows["geometry"], tokens[..., :5])
    np.testing.assert_array_equal(rows["features"], tokens[..., 5:])
    _, whole = encode_rows(wanted["geometry"], wanted["features"], 5)
    assert (tokens[..., 4] != whole[..., 4]).any()


def test_tokens_in_bits_are_not_for_generators(tmp_path):
    _write_all(tmp_path, 4, bits=6)
    tokens = open_tokens(tmp_path)
    for use in (lambda: TokenBatches(tokens, [0], 1, 0), lambda: layouts_of_tokens(tmp_path)):
        with pytest.raises(TokensError, match="encode without --bits"):
            use()


@pytest.mark.parametrize("bits", [None, 6])
def test_unreadable_images_leave_no_rows(bits, tmp_path):
    writer = TokenWriter(tmp_path, SETTINGS, 10, shard_size=4, bits=bits)
    writer.write(0, _rows([0, 3]), _names([0, 3]), {"b": "cut off", "c": "empty"})
    writer.write(1, _rows([]), [], {"d": "x", "e": "x", "f": "x", "g": "x"})
    writer.write(2, _rows([8, 9]), _names([8, 9]), {})
    index = writer.finish({})
    assert index["unreadable"] == {"b": "cut off", "c": "empty"} | dict.fromkeys("defg", "x")
    assert [example.position for example in open_tokens(tmp_path)] == [0, 3, 8, 9]
    rows, names = open_tokens(tmp_path).read(0, 10)
    assert len(names) == len(rows["features"]) == 4


def test_statistics_of_shards_are_those_of_all_values(tmp_path):
    index = _write_all(tmp_path, 23, processes=2)
    tokens = open_tokens(tmp_path)
    rows, _ = tokens.read(0, 23)
    values = np.concatenate(
        [rows["geometry"] - rows["initial_geometry"], rows["features"]], axis=-1
    )
    values = values.reshape(-1, 5 + C).astype(np.float64)
    statistics = index["statistics"]
    assert statistics["num_tokens"] == 23 * L
    np.testing.assert_allclose(statistics["features"]["mean"], values.mean(0)[5:], rtol=1e-12)
    np.testing.assert_allclose(statistics["geometry_delta"]["std"], values.std(0)[:5], rtol=1e-12)
    mean, std = tokens.normalisation
    assert mean.shape == std.shape == (5 + C,)
    np.testing.assert_allclose(mean, values.mean(0), rtol=1e-6)


def test_moments_merge_where_the_mean_dwarfs_the_deviation():
    values = np.random.default_rng(0).normal(1e8, 1, (1000, 2))
    parts = [Moments.of(values[:0]), Moments.of(values[:3]), Moments.of(values[3:])]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.count == 1000
    np.testing.assert_allclose(merged.std, values.std(0), rtol=1e-6)
    assert Moments.from_json(merged.to_json()).std.tolist() == merged.std.tolist()


def test_equal_contents_are_equal_bytes(tmp_path):
    for name in "ab":
        _write_all(tmp_path / name, 9)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 5
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_finished_shards_are_not_written_again(tmp_path):
    writer = TokenWriter(tmp_path, SETTINGS, 10, shard_size=4)
    writer.write(1, _rows([4, 5, 6, 7]), _names([4, 5, 6, 7]), {})
    writer.close()
    half = tmp_path / f".abc{TEMPORARY_SUFFIX}"
    half.write_bytes(b"half of one, as a kill leaves it")
    again = TokenWriter(tmp_path, SETTINGS | {"checkpoint": "moved/a"}, 10, shard_size=4)
    assert again.unfinished() == [0, 2] and not half.exists()
    with pytest.raises(TokensError, match="misses 2 shard"):
        again.finish({})
    again.close()
    with pytest.raises(TokensError, match="has not finished"):
        open_tokens(tmp_path)


@pytest.mark.parametrize(
    ("settings", "options", "difference"),
    [
        ({"step": 8}, {}, "step was 7 and is now 8"),
        ({"model": {"sizes": (1, 3)}}, {}, "model.sizes was"),
        ({}, {"bits": 6}, "bits was None and is now 6"),
        ({}, {"storage": "float16"}, "storage was 'float32' and is now 'float16'"),
        ({}, {"shard_size": 8}, "shard_size was 4 and is now 8"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_settings_are_refused(settings, options, difference, finished, tmp_path):
    if finished:
        _write_all(tmp_path, 8)
    else:
        writer = TokenWriter(tmp_path, SETTINGS, 8, shard_size=4)
        writer.write(0, _rows([0, 1, 2, 3]), _names([0, 1, 2, 3]), {})
        writer.close()
    with pytest.raises(OutputError, match=difference):
        TokenWriter(tmp_path, SETTINGS | settings, 8, **{"shard_size": 4, **options})


def test_damage_is_named(tmp_path):
    with pytest.raises(TokensError, match=r"has no index\.json"):
        open_tokens(tmp_path)
    _write_all(tmp_path, 8)
    tokens = open_tokens(tmp_path)
    second = sorted(tmp_path.glob("*.safetensors"))[1]
    second.write_bytes(second.read_bytes()[:-9])
    assert tokens[3].position == 3
    with pytest.raises(TokensError, match=second.name):
        tokens[4]
    second.unlink()
    with pytest.raises(TokensError, match=second.name):
        tokens[4]
    (tmp_path / "index.json").write_text('{"header": {"version": 99}}')
    with pytest.raises(TokensError, match="version 99"):
        open_tokens(tmp_path)


def test_unknown_storage_is_refused(tmp_path):
    with pytest.raises(ValueError, match="float32, float16, bfloat16"):
        TokenWriter(tmp_path, SETTINGS, 8, storage="int8")
