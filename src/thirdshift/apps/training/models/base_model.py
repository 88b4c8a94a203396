"""The model that a new workspace begins with: the user's own, or a tiny one that is made on the spot."""

import shutil
from pathlib import Path

from thirdshift.apps.training.config import ModelConfig
from thirdshift.apps.training.workspace import TrainingWorkspace
from thirdshift.core.errors import ConfigurationError
from thirdshift.host.files import sync_directory, sync_file

_MARK = "config.json"
_WANTED = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt")
_NEEDED = {
    _MARK: "config.json",
    "model*.safetensors": "weights in safetensors files",
    "tokenizer*": "a tokenizer (tokenizer.json or tokenizer.model)",
}


def demand_base_model(workspace: TrainingWorkspace, config: ModelConfig) -> None:
    """Raise :class:`ConfigurationError` when the model that *workspace* is to begin with cannot be one."""
    if not _has_model(workspace) and config.path is not None:
        _own_model(workspace, config.path)


def ensure_base_model(workspace: TrainingWorkspace, config: ModelConfig) -> None:
    """Fill ``models/current_model`` unless it holds a model already. Imports torch only when one has to be made.

    Killed at any moment it leaves a folder that the next call completes: ``config.json`` is copied last.
    """
    if _has_model(workspace):
        return
    if config.path is not None:
        _install(_own_model(workspace, config.path), workspace.current_model)
        return
    from thirdshift.apps.training.models.model import create_tiny_model  # noqa: PLC0415  # torch takes seconds and 400 MB

    made = workspace.current_model.with_name("base_model")
    if not made.exists():
        create_tiny_model(made, seed=config.seed, size=config.size)
    _install(made, workspace.current_model)
    shutil.rmtree(made)


def _has_model(workspace: TrainingWorkspace) -> bool:
    return (workspace.current_model / _MARK).is_file()


def _own_model(workspace: TrainingWorkspace, path: str) -> Path:
    folder = workspace.root / Path(path).expanduser()
    missing = [words for pattern, words in _NEEDED.items() if not any(folder.glob(pattern))]
    if missing:
        what = f"{folder} has no {', no '.join(missing)}"
        advice = "name a local folder with a Hugging Face causal language model"
        raise ConfigurationError([f"training.model.path: {what}; {advice}"])
    return folder


def _install(source: Path, current_model: Path) -> None:
    files = sorted({path for pattern in _WANTED for path in source.glob(pattern)}, key=lambda path: path.name == _MARK)
    for path in files:
        target = current_model / path.name
        temporary = current_model / f".{path.name}.tmp"
        shutil.copyfile(path, temporary)
        sync_file(temporary)
        temporary.replace(target)
    sync_directory(current_model)
