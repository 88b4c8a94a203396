"""The model that a new workspace begins with: the user's own, or a tiny one that is made on the spot."""

import shutil
from pathlib import Path

from thirdshift.apps.training.config import ModelConfig
from thirdshift.core.errors import ConfigurationError
from thirdshift.host.files import sync_directory, sync_file

_MARK = "config.json"
_WANTED = ("*.json", "*.jinja", "*.safetensors", "*.model", "*.txt")


def ensure_base_model(current_model: Path, config: ModelConfig) -> None:
    """Fill *current_model* unless it holds a model already. Imports torch only when a model has to be made.

    Killed at any moment it leaves a folder that the next call completes: ``config.json`` is copied last.
    """
    if (current_model / _MARK).is_file():
        return
    if config.path is not None:
        _install(_own_model(config.path), current_model)
        return
    from thirdshift.apps.training.model import create_tiny_model  # noqa: PLC0415  # torch takes seconds and 400 MB

    made = current_model.with_name("base_model")
    if not made.exists():
        create_tiny_model(made, seed=config.seed, size=config.size)
    _install(made, current_model)
    shutil.rmtree(made)


def _own_model(path: str) -> Path:
    folder = Path(path).expanduser()
    if not (folder / _MARK).is_file():
        raise ConfigurationError(
            [f"training.model.path: {folder} holds no {_MARK}; name a local folder with a Hugging Face model"]
        )
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
