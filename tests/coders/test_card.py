"""The model card: data, stages, what was reached, and what may be passed on."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from icdtune.coders.base import train_coder
from icdtune.coders.card import (
    CoderInfo,
    card,
    data_of,
    keep_evaluation,
    read_coder_info,
    stages_of,
    write_card,
)
from icdtune.coders.push import push
from icdtune.data.labels import Task, save_labels
from icdtune.errors import IcdtuneError
from icdtune.evaluation.evaluate import evaluate
from icdtune.files import read_json, write_json


@pytest.fixture(scope="module")
def dictionary(small_task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("card") / "dictionary"
    train_coder("dictionary", small_task, folder, 1, {})
    return folder


def head(folder: Path) -> dict[str, Any]:
    """What a hub reads of a card."""
    found: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])
    return found


def test_a_card_names_the_data_and_every_stage(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    options = {"start": str(tuned), "steps": 1, "visits": 2, "group": 2}
    train_coder("grpo", small_task, tmp_path / "grpo", 7, options)
    info = read_coder_info(tmp_path / "grpo")
    assert [stage.coder for stage in info.stages] == ["sft", "grpo"]
    assert (info.stages[1].steps, info.stages[1].seed) == (1, 7)
    assert info.stages[1].options == {"steps": 1, "visits": 2, "group": 2}
    assert info.stages[0].options["model"] == "small"
    text = (tmp_path / "grpo" / "README.md").read_text()
    assert f"`{small_task.corpus.info.hash[:16]}`" in text
    assert "label space `top10` of 10 codes" in text
    assert f"| grpo | steps=1, visits=2, group=2 | {info.corpus} | 7 | 1 |" in text
    assert "Not evaluated yet" in text
    assert head(tmp_path / "grpo") == {"library_name": "icdtune", "tags": ["medical-coding"]}


def test_a_folder_names_no_place_on_the_machine(
    tuned: Path, small_task: Task, tmp_path: Path
) -> None:
    """Models, starts and tables lie in folders whose names are nobody's business."""
    sft = {"model": str(tuned), "steps": 1, "lora_rank": 2, "answer_budget": 24}
    train_coder("sft", small_task, tmp_path / "sft", 1, sft | {"prompt_budget": 192})
    note = next(note for note in small_task.notes("train") if note.codes)
    (tmp_path / "added.csv").write_text(f"note_id,code\n{note.note_id},{(note.codes or ())[0]}\n")
    options = {"start": str(tmp_path / "sft"), "reviewed": str(tmp_path / "added.csv")}
    options |= {"rounds": 1, "steps": 1, "visits": 2, "group": 2, "lora_rank": 0}
    train_coder("phi", small_task, tmp_path / "phi", 1, options)
    shown = read_coder_info(tmp_path / "phi").options
    assert (shown["start"], shown["reviewed"]) == ("sft", "added.csv")
    files = [path for path in (tmp_path / "phi").rglob("*") if path.suffix in (".json", ".md")]
    assert len(files) > 5
    for path in files:
        assert str(tmp_path.parent.parent) not in path.read_text(), path.name
    # An adapter is of no use without the folder of its model, and is not sent.
    with pytest.raises(IcdtuneError, match="is an adapter of a model in a local folder"):
        push(tmp_path / "sft", "me/coder")


def test_evaluations_stand_in_the_card_with_their_intervals(
    dictionary: Path, small_task: Task
) -> None:
    from icdtune.coders.base import load_coder

    predictions = load_coder(dictionary).predict(small_task.notes("test"))
    metrics = evaluate(small_task, "test", [predictions], resamples=50)
    before = read_json(dictionary / "coder.json")
    keep_evaluation(dictionary, metrics | {"runs": 3})
    keep_evaluation(dictionary, metrics)  # takes the other's place
    keep_evaluation(dictionary, metrics | {"split": "val"})
    keep_evaluation(
        dictionary, metrics | {"runs": 3, "notes": 1}
    )  # others' as well: no result of this
    value = metrics["metrics"]["micro_f1"]
    text = (dictionary / "README.md").read_text()
    shown = f"{100 * value['value']:.1f} [{100 * value['low']:.1f}, {100 * value['high']:.1f}]"
    assert text.count(f"| {shown} |") == 3
    assert text.count("(mean of 3 seeds)") == 1
    results = head(dictionary)["model-index"][0]["results"]
    assert [r["dataset"]["split"] for r in results] == ["test", "val"]
    assert results[0]["metrics"][0]["value"] == round(value["value"], 4)
    assert read_json(dictionary / "coder.json") == before


def of(dictionary: Path, **data: Any) -> CoderInfo:
    """The coder as if an earlier stage of it had been trained on other data."""
    info = read_coder_info(dictionary)
    (stage,) = info.stages
    return info.model_copy(update={"stages": [stage.model_copy(update=data), stage]})


def test_a_card_says_what_patient_data_and_mimic_mean_for_the_weights(dictionary: Path) -> None:
    assert "patient data" not in card(of(dictionary), [])
    protected = card(of(dictionary, protected=True), [])
    assert "Trained on patient data" in protected
    assert "PhysioNet" not in protected
    mimic = card(of(dictionary, protected=True, source="MIMIC-IV note 2.2, hosp 2.2"), [])
    assert "through PhysioNet itself" in mimic


def test_patient_data_of_any_stage_counts(
    dictionary: Path, small_task: Task, tmp_path: Path
) -> None:
    """An earlier coder of which nothing is known counts as trained on patient data."""
    write_json(tmp_path / "old" / "coder.json", of(dictionary, protected=True).model_dump())
    before = read_coder_info(tmp_path / "old")
    unknown = before.model_dump(exclude={"data", "stages"})
    write_json(tmp_path / "unknown" / "coder.json", unknown)
    data = data_of(small_task)
    assert not data.protected
    with pytest.raises(IcdtuneError, match="is not a coder: it has no coder.json"):
        stages_of("grpo", {"start": str(tmp_path)}, 1, 1.0, {}, data)
    for option in ("start", "model"):
        for name in ("old", "unknown"):
            options = {option: str(tmp_path / name)}
            stages = stages_of("sft", options, 1, 1.0, {}, data)
            assert not stages[-1].protected
            assert before.model_copy(update={"stages": stages}).protected
    assert not stages_of("bow", {}, 1, 1.0, {}, data)[0].protected


def test_other_coders_predictions_do_not_go_into_a_card(
    tuned: Path, dictionary: Path, small_task: Task, tmp_path: Path
) -> None:
    from icdtune.coders.base import load_coder, run_coder

    run_coder(load_coder(tuned), "sft", small_task, "test", 1, tmp_path / "predictions")
    command = [sys.executable, "-m", "icdtune", "evaluate", str(tmp_path / "predictions")]
    command += ["--corpus", str(small_task.corpus.path), "--labels", "top10", "--card"]
    save_labels(small_task.corpus, small_task.labels)
    before = (dictionary / "README.md").read_bytes()
    wrong = subprocess.run([*command, str(dictionary)], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "the predictions are of sft (seed 1)" in wrong.stderr
    assert (dictionary / "README.md").read_bytes() == before


# Sending a folder to a hub


class Hub(http.server.BaseHTTPRequestHandler):
    """Takes repositories and commits, as the hub's interface has them."""

    protocol_version = "HTTP/1.1"
    made: list[dict[str, Any]]
    files: dict[str, bytes]

    def do_GET(self) -> None:
        private = "public" not in self.path
        about = {"siblings": [], "id": "me/coder", "sha": "0" * 40, "private": private}
        self.answer(about)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/api/repos/create":
            self.made.append(json.loads(body))
            self.answer({"url": f"http://{self.headers['Host']}/me/coder"})
        elif "/preupload/" in self.path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif self.path == "/api/validate-yaml":  # of the card
            self.answer({"errors": [], "warnings": []})
        elif "/commit/" in self.path:
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    data = base64.b64decode(entry["value"]["content"])
                    self.files[entry["value"]["path"]] = data
            url = f"http://{self.headers['Host']}/me/coder/commit/0"
            self.answer({"commitUrl": url, "commitOid": "0" * 40})
        else:
            self.answer({}, 404)

    def answer(self, content: dict[str, Any], status: int = 200) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[tuple[str, type[Hub]]]:
    """A hub's address, and what it was given."""

    class Own(Hub):
        made: list[dict[str, Any]] = []
        files: dict[str, bytes] = {}

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Own) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", Own
        server.shutdown()


def icdtune(address: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(home), "HF_TOKEN": "hf_x"}
    command = [sys.executable, "-m", "icdtune", "train", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_a_trained_folder_is_sent_to_a_hub(
    hub: tuple[str, type[Hub]], small_task: Task, tmp_path: Path
) -> None:
    address, given = hub
    corpus, out = str(small_task.corpus.path), tmp_path / "coder"
    done = icdtune(
        address,
        tmp_path / "home",
        *("dictionary", "--corpus", corpus, "--out", str(out), "--push", "me/coder"),
    )
    assert done.returncode == 0, done.stderr
    assert "is at http" in done.stdout
    (repo,) = given.made
    assert (repo["name"], repo["organization"]) == ("coder", "me")
    assert repo.get("private") or repo["visibility"] == "private"  # older and newer interfaces
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    assert given.files == files
    given.files.clear()
    other = icdtune(address, tmp_path / "home", "bow", "--out", str(out), "--push", "me/coder")
    assert other.returncode == 2
    assert "is there already (dictionary) and would be sent as it is" in other.stderr
    again = icdtune(
        address, tmp_path / "home", "dictionary", "--out", str(out), "--push", "me/coder"
    )
    assert again.returncode == 0, again.stderr
    assert given.files == files


def test_patient_data_and_a_hub_that_is_not_there_are_refused(
    dictionary: Path, hub: tuple[str, type[Hub]], tmp_path: Path
) -> None:
    folder = tmp_path / "coder"
    folder.mkdir()
    info = of(dictionary, protected=True)
    write_json(folder / "coder.json", info.model_dump())
    write_card(folder, info)
    with pytest.raises(IcdtuneError, match="was trained on patient data.*Give --allow-protected"):
        push(folder, "me/coder")
    address, given = hub
    there = icdtune(
        address,
        tmp_path / "home",
        *("dictionary", "--out", str(folder), "--push", "me/coder", "--allow-protected"),
    )
    assert there.returncode == 0, there.stderr
    assert given.files.keys() == {"coder.json", "README.md"}
    open_to_all = icdtune(
        address,
        tmp_path / "home",
        *("dictionary", "--out", str(folder), "--push", "me/public", "--allow-protected"),
    )
    assert open_to_all.returncode == 2
    assert "me/public is public" in open_to_all.stderr
    gone = icdtune(
        "http://127.0.0.1:9",
        tmp_path / "home",
        *("dictionary", "--out", str(folder), "--push", "me/coder", "--allow-protected"),
    )
    assert gone.returncode == 2
    assert "could not be sent to me/coder" in gone.stderr
    assert "Traceback" not in gone.stderr
