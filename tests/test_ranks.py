"""Two processes (torchrun, gloo) against one."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL, STAGES, SUITE, outcome, run_script
from trees import ucsd_tree

NAME = ["--dataset_name", "UCSDped2"]


def torchrun(*command, processes=2):
    """Starts a script under torchrun."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return subprocess.Popen([*start, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                            env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"})


def finished(process):
    """What it printed; asserts that it ended well."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ucsd_tree(tmp_path, test=3)


@pytest.mark.numeric
def test_frame_stages_and_scores_are_the_same_bytes(tree):
    outputs = ["bboxes.npy", "stc_raw.npy", "stc_of.npy"]
    words = {**STAGES, "extract_stc.py": ["--use_flow", "true"], "train.py": [*SMALL, "--use_flow", "true"]}
    words["calc_optical_flow.py"] = [*words["calc_optical_flow.py"], "--use_flow", "true"]
    for script in list(STAGES)[:3]:
        run_script(script, *NAME, *words[script])
    one = [Path("data/UCSDped2/test", name).read_bytes() for name in outputs]
    flow = {path: path.read_bytes() for path in Path("optical_flow").rglob("*.npy")}
    shutil.rmtree("data")
    shutil.rmtree("optical_flow")
    for script in list(STAGES)[:3]:
        out = finished(torchrun(SUITE / script, *NAME, *words[script]))
        assert out.count("wrote ") == 1 and out.count("next: ") == 1  # rank 0 alone prints
    assert one == [Path("data/UCSDped2/test", name).read_bytes() for name in outputs]
    assert flow == {path: path.read_bytes() for path in Path("optical_flow").rglob("*.npy")}
    assert not list(Path("data").rglob("*.part*"))
    run_script("train.py", *NAME, *words["train.py"])
    run_script("test.py", *NAME, "--model", "data/UCSDped2/test", "--results_dir", "one")
    first = np.load("one/UCSDped2/test/box_scores.npy")  # taken from the checkpoint; now computed anew, of other cubes
    run_script("extract_bbox.py", *NAME, *STAGES["extract_bbox.py"][:2], "--box_margin", "4", "--data_root_dir", "other")
    run_script("extract_stc.py", *NAME, "--use_flow", "true", "--data_root_dir", "other")
    score = [*NAME, "--data_root_dir", "other", "--model", "data/UCSDped2/test", "--results_dir"]
    run_script("test.py", *score, "one")
    finished(torchrun(SUITE / "test.py", *score, "two"))
    assert Path("one/UCSDped2/test/box_scores.npy").read_bytes() == Path("two/UCSDped2/test/box_scores.npy").read_bytes()
    assert not np.array_equal(first, np.load("one/UCSDped2/test/box_scores.npy"))


WORKER = """
import os
import sys
import numpy as np, torch
from contextlib import nullcontext
from types import SimpleNamespace
from torch import nn
from models.cae import ReconCAE
from train import train_epoch
from utils import ranks
from utils.cubes import Batch

ranks.start()
torch.manual_seed(0)
model = ReconCAE(4, 5, True).double()
for part in model.modules():
    if isinstance(part, nn.BatchNorm2d):
        part.train = lambda mode=True, part=part: nn.Module.train(part, False)  # frozen
cfg = SimpleNamespace(sp_mode="mixture", shrink_rate=0.05, warmup_epoch=1, lambda_raw=1.0, lambda_of=1.0)
network = ranks.distributed(model)
optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
rng, step, weights = np.random.default_rng(0), 0, []
raw, flow = (torch.from_numpy(rng.random((25, channels, 16, 16))) for channels in (15, 10))
for epoch in range(5):
    batches = []
    for rows in torch.arange(25).split(8):  # 8, 8, 8 and 1: the last leaves a rank without a share
        own = rows[ranks.own_part(len(rows))]
        batches.append(Batch(raw[own], flow[own], len(rows)))
    stats, given, step = train_epoch(network, optimizer, batches, epoch, step, nullcontext(), cfg)
    weights.append(given)
if ranks.RANK == 0:
    torch.save({"model": model.state_dict(), "weights": torch.stack(weights), "stats": stats}, sys.argv[1])
ranks.wait()
os._exit(0)  # as utils.run.run ends
"""


@pytest.mark.numeric
def test_training_steps_are_those_of_one_process(tmp_path, monkeypatch):
    """Float64, batch norm frozen, 20 steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(SUITE))
    Path("worker.py").write_text(WORKER)
    one, two = (finished(torchrun("worker.py", f"{n}.pt", processes=n)) or torch.load(f"{n}.pt") for n in (1, 2))
    for key, value in one["model"].items():
        torch.testing.assert_close(two["model"][key], value, rtol=0, atol=1e-9)
    torch.testing.assert_close(two["weights"], one["weights"], rtol=0, atol=1e-9)
    assert 0 < (one["weights"] < 1).double().mean() < 1
    assert two["stats"] == pytest.approx(one["stats"])


def test_a_rank_that_dies_ends_the_run_and_it_goes_on(tree):
    for script in list(STAGES)[:3]:
        run_script(script, *NAME, *STAGES[script])
    words = [SUITE / "train.py", *NAME, *SMALL, "--epochs", "40", "--h_block", "2"]
    process = torchrun(*words)
    data = Path("data/UCSDped2/test")
    while not list(data.glob("train.part/*.pt")):
        assert process.poll() is None
        time.sleep(0.02)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)  # this run's ranks alone
    os.kill(int(found.stdout.split()[-1]), signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0 and not (data / "train.json").is_file()
    refused = torchrun(*words, "--sync_bn", "true")
    assert "only on GPUs" in refused.communicate(timeout=240)[1] and refused.returncode != 0
    out = finished(torchrun(*words))
    assert "resuming after epoch" in out and out.count("wrote model_0_0.pt") == 1
    finished(torchrun(SUITE / "test.py", *NAME))
    assert 0 <= outcome("UCSDped2", "test")["auroc"] <= 1
