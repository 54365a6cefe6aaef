"""Weights & Biases and MLflow as logs of a run, and trackers that fail."""

import contextlib
import functools
import threading
import time

import numpy as np
import pytest
from ml_collections import ConfigDict

from gpstoken_jax.configs.check import find_mistakes
from gpstoken_jax.configs.tiny import get_config
from gpstoken_jax.runtime.checkpoint import Checkpoints, load_newest_tree
from gpstoken_jax.runtime.run_directory import RunDirectory, read_config, write_config
from gpstoken_jax.training import trackers
from gpstoken_jax.training.metric_log import MetricLog, read_metrics

TREE = {"ema_params": {"a": np.arange(3.0)}}


@pytest.fixture
def run(tmp_path, monkeypatch):
    for name in (
        "WANDB_MODE",
        "WANDB_PROJECT",
        "WANDB_RUN_ID",
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    run = RunDirectory(tmp_path / "my rün (2)")  # no name for an artifact
    checkpoints = Checkpoints(run.checkpoints, keep=1)
    checkpoints.save(2, TREE, {})
    checkpoints.close()
    return run


def _log_twice(run, name):
    """A run of two steps that goes on after the first, as a training logs it."""
    config = get_config("smoke")
    config.log.to = f"jsonl,{name}"
    write_config(run, config)
    for step, loss in ((1, 0.5), (2, 0.25)):
        log = MetricLog(run, step=step - 1, config=config)
        log.scalars(step, {"loss": loss, "psnr": np.nan})
        log.image(step, "held out", np.full((4, 4, 3), 100 * step, np.uint8))
        if step == 2:
            log.checkpoint(2)
        log.close()
        assert log.lacks == {}


def _check_checkpoint(root):
    """It is a run's directory again."""
    step, tree = load_newest_tree(RunDirectory(root).checkpoints, "ema_params", TREE["ema_params"])
    assert step == 2 and (np.asarray(tree["a"]) == TREE["ema_params"]["a"]).all()
    assert read_config(RunDirectory(root)).log.to.startswith("jsonl")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of what it is made of
def test_mlflow_has_metrics_config_pictures_and_the_checkpoint(run, tmp_path):
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed: the extra [mlflow]")
    _log_twice(run, "mlflow")
    client = mlflow.MlflowClient(f"sqlite:///{run.root / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("gpstoken")
    (found,) = client.search_runs([experiment.experiment_id])  # the second part has joined it
    assert found.info.run_name == run.name and found.info.status == "FINISHED"
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.5), (2, 0.25)]
    assert "psnr" not in found.data.metrics
    assert found.data.params["model.encoder.depth"] == "2"
    client.download_artifacts(found.info.run_id, "", str(tmp_path))
    assert (tmp_path / "samples" / "2.png").read_bytes() == (run.samples / "2.png").read_bytes()
    _check_checkpoint(tmp_path / "checkpoint")


def test_wandb_has_metrics_config_pictures_and_the_checkpoint(run):
    pytest.importorskip("wandb", reason="wandb is not installed: the extra [wandb]")
    from wandb.proto import wandb_internal_pb2

    _log_twice(run, "wandb")
    files = sorted((run.root / "wandb").glob("offline-run-*/run-*.wandb"))
    assert len({file.name for file in files}) == 1  # one run, whose second part joins the first
    read = functools.partial(_read_run, parse=wandb_internal_pb2.Record.FromString)
    records = [record for file in files for record in read(file)]
    items = [item for r in records if r.HasField("history") for item in r.history.item]
    values = {item.key or ".".join(item.nested_key): item.value_json for item in items}
    losses = [i.value_json for i in items if "loss" in (i.key, *i.nested_key)]
    assert losses == ["0.5", "0.25"]
    assert any("samples" in name for name in values)
    started = next(r.run for r in records if r.HasField("run"))
    assert started.display_name == run.name and started.project == "gpstoken"
    assert {"model", "log", "optimizer"} <= {item.key for item in started.config.update}
    calls = [r.request.log_artifact.artifact for r in records if r.HasField("request")]
    calls += [r.artifact for r in records if r.HasField("artifact")]
    (artifact,) = [call for call in calls if call.name]
    names = {entry.path for entry in artifact.manifest.contents}
    assert "config.json" in names and any(n.startswith("checkpoints/2/") for n in names)


def _read_run(path, parse):
    """The records of a part that has ended: W&B's own process writes the last after ``finish``."""
    from google.protobuf.message import DecodeError

    for _ in range(600):
        with contextlib.suppress(DecodeError, IndexError):  # a record's start alone is no record
            records = [parse(data) for data in _records(path.read_bytes())]
            if any(record.HasField("exit") for record in records):
                return records
        time.sleep(0.1)
    raise AssertionError(f"{path} has no end after a minute")


def _records(data):
    """Records of W&B's file, a log of LevelDB: blocks of 32 KiB of checksum, length, kind, part."""
    place, record = 7, b""  # after the file's mark
    while place < len(data):
        if 32768 - place % 32768 < 7:
            place += -place % 32768
            continue
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


class _Failing:
    def __init__(self, *_):
        pass

    def __getattr__(self, name):
        raise KeyError("no such server")


def _no_start(*_):
    raise RuntimeError("no such server")


@pytest.mark.parametrize("create", [_Failing, _no_start])
def test_a_failing_tracker_warns_once_and_stops_nothing(run, create, monkeypatch, caplog):
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", create)
    config = ConfigDict({"log": {"to": "jsonl,mlflow"}})
    log = MetricLog(run, step=0, config=config)
    for step in range(1, 4):
        log.scalars(step, {"loss": 1.0})
    log.close()
    assert len(read_metrics(run.metrics)) == 3
    assert caplog.text.count("the log goes on without mlflow") == 1
    assert "no such server" in caplog.text
    assert log.lacks["mlflow"] >= 3 and "lacks" in caplog.text


def test_a_tracker_that_hangs_holds_up_nothing(caplog):
    never = threading.Event()
    tracker = trackers.Queued("wandb", never.wait)
    for step in range(2 * trackers._WAITING):
        tracker("scalars", step, {"loss": 1.0})
    tracker.close(0.05)
    assert tracker.lost >= trackers._WAITING
    assert caplog.text.count("the log goes on without wandb: it is too slow") == 1


@pytest.mark.parametrize("to", ["tensorbord", "jsonl,,wandb", "wandb;mlflow"])
def test_names_of_logs_are_checked(to):
    config = get_config("smoke")
    config.log.to = to
    (mistake,) = find_mistakes(config)
    assert "log.to" in mistake and "must be one of tensorboard, jsonl" in mistake


def test_a_tracker_that_is_not_installed_is_said_at_the_start(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = get_config("smoke")
    config.log.to = "jsonl, wandb"
    (mistake,) = find_mistakes(config)
    assert "pip install 'gpstoken_jax[wandb]'" in mistake


def test_only_what_is_asked_for_is_written(run):
    log = MetricLog(run, step=0, config=ConfigDict({"log": {"to": "tensorboard"}}))
    log.scalars(1, {"loss": 1.0})
    log.close()
    assert any(run.tensorboard.iterdir()) and not run.metrics.exists() and not log.lacks
