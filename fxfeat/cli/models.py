"""Turn what the user typed as MODEL into a module."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from fxfeat.cli.usage import MODEL_FORMS, UsageError, suggest


def load_model(spec: str, arguments: Sequence[str] = ()) -> nn.Module:
    """Build the model that ``spec`` names; those of torchvision and timm get random weights.

    Example:
        >>> type(load_model("torch.nn:Linear", ["in_features=4", "out_features=3"])).__name__
        'Linear'

    Args:
        spec: ``torchvision:NAME``, ``timm:NAME``, ``package.module:CALLABLE`` or ``path/to/file.py:CALLABLE``.
        arguments: ``key=value`` for the callable; a value that is no Python literal is a string.

    Returns:
        The model.

    Raises:
        UsageError: where it is not there or cannot be built.
    """
    source, colon, name = spec.rpartition(":")
    if not (colon and source and name):
        raise UsageError(f"MODEL is {spec!r}; write {MODEL_FORMS}.{_guess_source(spec)}")
    given = dict(map(_read_argument, arguments))
    if source == "torchvision":
        return _build(spec, *_find_in_torchvision(name, given))
    if source == "timm":
        return _build(spec, *_find_in_timm(name, given))
    return _build(spec, _find_in_module(spec, _import_own(source), name), given)


def _guess_source(spec: str) -> str:
    try:
        from torchvision.models import list_models
    except ImportError:
        return ""
    return suggest(f"torchvision:{spec}", (f"torchvision:{name}" for name in list_models()))


def _read_argument(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not (equals and key.isidentifier()):
        raise UsageError(f"--arg is {text!r}; write it as KEY=VALUE, as in --arg num_classes=10.")
    try:
        return key, ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value


def _find_in_torchvision(name: str, given: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    models = _import_source("torchvision.models")
    if name not in models.list_models():
        raise UsageError(f"torchvision has no model {name!r}.{suggest(name, models.list_models())}")
    builder = models.get_model_builder(name)
    takes = inspect.signature(builder).parameters
    random = {key: None for key in ("weights", "weights_backbone") if key in takes}
    return builder, {**random, **given}


def _find_in_timm(name: str, given: dict[str, Any]) -> tuple[Callable[..., Any], dict[str, Any]]:
    timm = _import_source("timm")
    if not timm.is_model(name):
        raise UsageError(f"timm has no model {name!r}.{suggest(name.partition('.')[0], timm.list_models())}")

    def build(**arguments: Any) -> Any:
        return timm.create_model(name, **arguments)

    return build, {"pretrained": False, **given}


def _import_own(source: str) -> ModuleType:
    if source.endswith(".py"):
        return _import_file(Path(source))
    if "/" in source or source.startswith("."):
        raise UsageError(_explain_no_module(source, source))
    # A console script does not have the folder it is called in on its path, as ``python -m`` has.
    _put_on_path(Path.cwd())
    return _import_source(source)


def _import_source(source: str) -> ModuleType:
    try:
        return importlib.import_module(source)
    except ModuleNotFoundError as error:
        if error.name and f"{source}.".startswith(f"{error.name}."):
            raise UsageError(_explain_no_module(source, error.name)) from error
        raise UsageError(f"{source!r} cannot be imported: {_spell(error)}.") from error
    except (Exception, SystemExit) as error:
        raise UsageError(f"{source!r} cannot be imported: {_spell(error)}.") from error


def _explain_no_module(source: str, missing: str) -> str:
    top = source.partition(".")[0]
    if top in ("torchvision", "timm"):
        return f"{top} is not installed. Type: pip install {top}"
    importable = () if "." in missing else ("torchvision", "timm", *sys.stdlib_module_names)
    path = f" For a file, write {source}.py:CALLABLE." if "/" in source else ""
    return f"there is no Python module {missing!r} here.{suggest(missing, importable)}{path} MODEL is {MODEL_FORMS}."


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        near = suggest(str(path), map(str, path.parent.glob("*.py")))
        raise UsageError(f"there is no file {str(path)!r}.{near}")
    _put_on_path(path.resolve().parent)
    # A name of its own, so that a file called like an installed module does not take its place.
    name = f"fxfeat_model_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UsageError(f"{str(path)!r} cannot be imported: {_spell(error)}.") from error
    return module


def _put_on_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _find_in_module(spec: str, module: ModuleType, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            public = [key for key in vars(value) if not key.startswith("_")] if hasattr(value, "__dict__") else []
            raise UsageError(f"{spec!r}: there is no {part!r} in {spec.rpartition(':')[0]}.{suggest(part, public)}")
        value = getattr(value, part)
    return value


def _build(spec: str, builder: Any, given: dict[str, Any]) -> nn.Module:
    if isinstance(builder, nn.Module) and not given:
        return builder
    if isinstance(builder, nn.Module) or not callable(builder):
        raise UsageError(_explain_no_callable(spec, builder))
    _check_arguments(spec, builder, given)
    try:
        model = builder(**given)
    except (Exception, SystemExit) as error:
        raise UsageError(_explain_failure(spec, builder, given, error)) from error
    if isinstance(model, nn.Module):
        return model
    raise UsageError(f"{spec} returned {_spell_type(model)}; it must return a torch.nn.Module.")


def _explain_failure(spec: str, builder: Any, given: dict[str, Any], error: BaseException) -> str:
    shown = "".join(f" --arg {key}={value}" for key, value in given.items() if value not in (None, False))
    accepted = _list_arguments(builder)
    near = "".join(suggest(key, accepted) for key in given if accepted and key not in accepted)
    return f"{spec}{shown} cannot be built: {_spell(error)}.{near}"


def _list_arguments(builder: Any) -> list[str]:
    """List what a function takes, and what the class it gives takes, as many pass the rest on to that."""
    try:
        signature = inspect.signature(builder)
    except (TypeError, ValueError):
        return []
    returned = signature.return_annotation
    is_model = isinstance(returned, type) and issubclass(returned, nn.Module)
    passed_on = inspect.signature(returned).parameters if is_model else ()
    return [*signature.parameters, *passed_on]


def _explain_no_callable(spec: str, value: Any) -> str:
    if isinstance(value, nn.Module):
        return f"{spec} is a model already, so it takes no --arg. Leave --arg out."
    return f"{spec} is {_spell_type(value)}; it must be a model, or a function or class that gives one."


def _check_arguments(spec: str, builder: Callable[..., Any], given: dict[str, Any]) -> None:
    try:
        parameters = inspect.signature(builder).parameters
    except (TypeError, ValueError):
        return
    named = [p.name for p in parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    _check_known(spec, given, named, any(p.kind is p.VAR_KEYWORD for p in parameters.values()))
    needed = [key for key in named if parameters[key].default is inspect.Parameter.empty]
    missing = [key for key in needed if key not in given]
    if missing:
        raise UsageError(f"{spec} needs {', '.join(missing)}. Add {' '.join(f'--arg {key}=VALUE' for key in missing)}.")


def _check_known(spec: str, given: dict[str, Any], named: list[str], takes_any: bool) -> None:
    wrong = next((key for key in given if key not in named), None)
    if wrong is None or takes_any:
        return
    takes = f"it takes {', '.join(named)}" if named else "it takes none"
    raise UsageError(f"{spec} takes no argument {wrong!r}; {takes}.{suggest(wrong, named)}")


def _spell(error: BaseException) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    first = first.rstrip(".")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _spell_type(value: Any) -> str:
    name = "None" if value is None else type(value).__name__
    article = "" if value is None else "an " if name[0] in "aeiouAEIOU" else "a "
    return article + name
