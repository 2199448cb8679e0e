"""The house rules: who imports whom, which settings are read, what the documents name."""

import ast
import re

import pytest
from conftest import SUITE

from utils.config import parse_config
from utils.errors import UserError
from utils.settings import SETTINGS

PACKAGES = ("utils", "models", "fore_det", "FlowNet2_src")
FILES = sorted(p for place in (".", *(f"{name}/**" for name in (*PACKAGES, "tools"))) for p in SUITE.glob(f"{place}/*.py"))
SCRIPTS = sorted(p.stem for p in SUITE.glob("*.py"))


def imported(path):
    """Top-level names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SUITE)))
def test_imports_point_inwards(path):
    own = path.relative_to(SUITE).parts[0]
    allowed = {"utils": {"utils"}, "models": {"utils", "models"}, "fore_det": {"utils", "fore_det"},
               "FlowNet2_src": {"utils", "FlowNet2_src"}, "tools": {*PACKAGES, "tools"}}.get(own, set(PACKAGES))
    forbidden = ({*PACKAGES, "tools", *SCRIPTS} - allowed) & set(imported(path))
    assert not forbidden, f"{path.relative_to(SUITE)} imports {forbidden}"


def test_every_setting_is_read_somewhere():
    code = "".join(p.read_text() for p in FILES)
    unread = [name for name in SETTINGS if not re.search(rf"cfg\.{name}\b|\"{name}\"\]", code)]
    assert not unread


def test_no_file_is_read_in_a_way_that_runs_code():
    for path in FILES:
        assert not re.search(r"allow_pickle=True|weights_only=False|\beval\(\"|\bexec\(", path.read_text()), path


def test_official_config_files_load(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("UCSDped1", "UCSDped2", "avenue", "ShanghaiTech"):
        for era, smoothing in (("configs", 10), ("configs/paper_2022", 1)):
            cfg = parse_config("", ["--dataset_name", name, "--config", str(SUITE / era / f"{name}.cfg")])
            assert (cfg.window_size, cfg.epochs, cfg.batch_size, cfg.use_flow) == (smoothing, 30, 256, False)
            assert cfg.h_block == (4 if name == "UCSDped1" else 1)
            fast = era == "configs" and name in ("UCSDped2", "ShanghaiTech")
            assert cfg.shrink_rate == (0.005 if fast else 0.0001)
            assert cfg.detector_scale == (320 if era == "configs" and name in ("avenue", "ShanghaiTech") else 608)
            assert cfg.min_area == {"avenue": 1600, "ShanghaiTech": 900}.get(name, 100)


def test_defaults_then_config_then_flags(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.cfg").write_text("[dataset]\nlayout = ucsd\nmin_area = 64\n[LBR_SPR_parameters]\nepochs = 7  ; few\n")
    cfg = parse_config("", ["--dataset_name", "own", "--config", "own.cfg"])
    assert (cfg.epochs, cfg.min_area, cfg.batch_size, cfg.config) == (7, 64, 256, "own.cfg")
    assert parse_config("", ["--dataset_name", "own", "--config", "own.cfg", "--epochs", "9"]).epochs == 9


@pytest.mark.parametrize("text, message", [
    ("[LBR_SPR_parameters]\nepoch = 7", "did you mean epochs?"),
    ("[LBR_SPR_parameters]\nepochs = many", "must be int"),
    ("[LBR_SPR_parameters]\nepochs = 0", "must be 1 to 1,000,000"),
    ("[LBR_SPR_parameters]\nuse_flow = maybe", "must be true or false"),
    ("[LBR_SPR_parameters]\nsp_mode = soft", "must be one of mixture"),
    ("[LBR_SPR_parameters]\nlr = nan", "must be 0 or more"),
    ("[data]\nepochs = 7", "unknown section"),
    ("epochs = 7", "not a config file"),
    ("[data_parameters]\npatch_size = 30", "multiple of 8"),
])
def test_config_typos_are_named(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "typo.cfg").write_text(text)
    with pytest.raises(UserError, match=re.escape(message)):
        parse_config("", ["--dataset_name", "UCSDped2", "--config", "typo.cfg"])


def test_the_tree_names_every_file():
    tree = (SUITE / "tree.txt").read_text(encoding="utf-8")
    files = [*FILES, *(p for pattern in ("benchmarks/*.py", "tests/*.py", "docs/*", "experiments/*.cfg", "configs/*.cfg",
                                         "tools/*.html") for p in SUITE.glob(pattern))]
    missing = [str(p.relative_to(SUITE)) for p in files if p.name != "__init__.py" and p.name not in tree]
    assert not missing
