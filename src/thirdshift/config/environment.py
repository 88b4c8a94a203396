"""Environment variables as values that lie over those of the file, with the variable's name as their place."""

import os

import yaml

_STR = "tag:yaml.org,2002:str"
_MAP = "tag:yaml.org,2002:map"
VARIABLES = {
    "BG_WORKER_TYPE": ("worker_type",),
    "BG_THREADED_MAX_WORKERS": ("threaded_worker", "max_workers"),
    "BG_THREADED_QUEUE_SIZE": ("threaded_worker", "queue_size"),
    "CELERY_BROKER_URL": ("celery_worker", "broker_url"),
    "CELERY_RESULT_BACKEND": ("celery_worker", "result_backend"),
    "BG_MONITORING_ENABLED": ("monitoring", "enabled"),
    "BG_MONITORING_ERROR_THRESHOLD": ("monitoring", "error_rate_threshold"),
}
_TEXTS = ("BG_WORKER_TYPE", "CELERY_BROKER_URL", "CELERY_RESULT_BACKEND")
_SWITCHES = ("BG_USE_ENV", "OMNI_DEV_BG_USE_ENV")
_TRUE, _FALSE = ("true", "1", "yes", "on"), ("false", "0", "no", "off")


def only_environment(problems: list[str]) -> bool:
    """Return whether files are to be ignored; a switch that cannot be read is added to *problems*."""
    values = {name: os.environ.get(name, "").lower() for name in _SWITCHES}
    for name, value in values.items():
        if value and value not in (*_TRUE, *_FALSE):
            problems.append(f"{name}: must be true or false, not {value!r}")
    return any(value in _TRUE for value in values.values())


def overlaid(root: yaml.Node | None) -> yaml.Node | None:
    """Return *root* with the variables that are set laid over it; an empty variable is one that is not set."""
    for name, path in VARIABLES.items():
        if text := os.environ.get(name):
            root = _with(root, path, _node(name, text))
    return root


def _node(name: str, text: str) -> yaml.ScalarNode:
    mark = yaml.Mark(name, 0, -1, 0, None, 0)
    if name == "BG_MONITORING_ENABLED":
        text = {"1": "true", "0": "false"}.get(text, text)
    return yaml.ScalarNode(_STR if name in _TEXTS else _tag_of(text), text, mark, mark)


def _tag_of(text: str) -> str:
    """Return what the text would be in a file: a number, true or false, or text."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return _STR
    return node.tag if isinstance(node, yaml.ScalarNode) else _STR


def _with(node: yaml.Node | None, path: tuple[str, ...], value: yaml.ScalarNode) -> yaml.Node:
    """Return a copy of *node* with *value* at *path*; the node itself may be shared by YAML aliases."""
    if not path:
        return value
    is_empty = node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null")
    if not is_empty and not isinstance(node, yaml.MappingNode):
        assert node is not None
        return node  # its own problem is told
    entries = list(node.value) if isinstance(node, yaml.MappingNode) else []
    inside = [old for key, old in entries if key.value == path[0]]
    new = _with(inside[0] if inside else None, path[1:], value)
    if inside:
        at = next(number for number, (key, _) in enumerate(entries) if key.value == path[0])
        entries[at] = (entries[at][0], new)
    else:
        entries.append((yaml.ScalarNode(_STR, path[0], value.start_mark, value.end_mark), new))
    start = value.start_mark if node is None else node.start_mark
    return yaml.MappingNode(_MAP, entries, start, start)
