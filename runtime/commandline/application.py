"""Loading the user's App by its name, `module:attribute`, and saying well what is wrong when that fails.

The working directory goes to the *end* of `sys.path`: a file there must not replace a module of Python, of ours or of
any library. What the user's module raises while it is imported is the user's, so it is told by file and line instead
of by our traceback.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from kernel.errors import EngineError, InvalidCommand
from runtime.app import App
from runtime.config import Settings, find_pyproject

__all__ = ["AppNotLoaded", "load_app"]

_THREE_WAYS = """\
Name it in one of three ways:
  leasehold up --app app:app                       on the command line, as module:attribute
  LEASEHOLD_APP=app:app                            in the environment
  [tool.leasehold] app = "app:app"                 in pyproject.toml
Or let "leasehold init" write a first one, or look at "leasehold demo", which needs none."""


class AppNotLoaded(InvalidCommand):
    """The App cannot be had from where it is said to be."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, field="app", hint=hint)


def load_app(settings: Settings) -> App:
    """Import the App that the settings name.

    Raises: AppNotLoaded, with what is there instead.
    """
    if settings.app is None:
        raise AppNotLoaded("No app is configured.", hint=_THREE_WAYS)
    module_name, separator, attribute = settings.app.partition(":")
    is_module = all(part.isidentifier() for part in module_name.split(".")) and not module_name.endswith(".py")
    if not separator or not attribute or not is_module:
        source = settings.source_of("app")
        raise AppNotLoaded(
            f'"{settings.app}" ({source}) is not of the form module:attribute.',
            hint='For the object "app" in app.py write app:app; for src/shop/flows.py, shop.flows:app.',
        )
    _extend_path(settings)
    module = _import(module_name)
    return _attribute(module, module_name, attribute)


def _extend_path(settings: Settings) -> None:
    """Put the working directory, and that of the pyproject.toml that names the app, at the end."""
    working = Path.cwd()
    folders = [str(working)]
    pyproject = find_pyproject(working)
    if pyproject is not None and settings.source_of("app") == str(pyproject) and pyproject.parent != working:
        folders.append(str(pyproject.parent))
    sys.path[:] = [path for path in sys.path if path not in {"", *folders}] + folders


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise AppNotLoaded(f'There is no module "{name}".', hint=_modules_near(name)) from error
        raise AppNotLoaded(
            f'The module "{name}" cannot be imported: {_where(error)}{error}.',
            hint=f'Is "{error.name}" installed in this environment ({sys.prefix})?',
        ) from error
    except EngineError as error:
        # An engine error builds its own message and hint: a stage or workflow that is not usable as written.
        raise AppNotLoaded(
            f'The module "{name}" cannot be imported: {_where(error)}{error.message}', hint=error.hint
        ) from error
    except SyntaxError as error:
        where = f"{_near(error.filename or name)}, line {error.lineno}"
        raise AppNotLoaded(f'The module "{name}" cannot be imported: {where}: {error.msg}.') from error
    except SystemExit as error:
        reason = f'The module "{name}" ended the process when it was imported: {_where(error)}SystemExit: {error.code}.'
        hint = 'Put what is for running it as a script under: if __name__ == "__main__":'
        raise AppNotLoaded(reason, hint=hint) from error
    except Exception as error:  # user code may raise anything when it is imported
        raise AppNotLoaded(
            f'The module "{name}" cannot be imported: {_where(error)}{type(error).__name__}: {error}'
        ) from error


def _where(error: BaseException) -> str:
    """The line of the user's code that raised: the last one that is not in a library."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if "importlib" not in frame.filename and Path(frame.filename) != Path(__file__)
    ]
    libraries = {Path(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))}
    ours = Path(__file__).parents[2]
    own = [f for f in frames if not _below(f.filename, libraries) and not _is_ours(f.filename, ours)]
    frame = next(iter(reversed(own or frames)), None)
    return "" if frame is None else f"{_near(frame.filename)}, line {frame.lineno}: "


def _below(filename: str, folders: set[Path]) -> bool:
    return any(folder in Path(filename).parents for folder in folders)


def _is_ours(filename: str, home: Path) -> bool:
    path = Path(filename)
    return path.is_relative_to(home) and path.relative_to(home).parts[0] in {
        "kernel",
        "runtime",
        "adapters",
        "telemetry",
    }


def _near(filename: str) -> str:
    path, working = Path(filename), Path.cwd()
    return str(path.relative_to(working)) if path.is_relative_to(working) else filename


def _modules_near(name: str) -> str:
    """The modules and packages of the working directory whose names are close, else all of them."""
    folder = Path.cwd().joinpath(*name.split(".")[:-1])
    prefix = name.rpartition(".")[0]
    there_are = sorted(path for path in folder.iterdir() if _is_module(path)) if folder.is_dir() else []
    names = [f"{prefix}.{path.stem}" if prefix else path.stem for path in there_are]
    if close := get_close_matches(name, names, n=1):
        return f'Did you mean "{close[0]}"?'
    there = f"Modules in {folder}: {', '.join(names[:10])}." if names else f"There are no modules in {folder}."
    return f"{there} It is looked for in this environment, then in {Path.cwd()}."


def _is_module(path: Path) -> bool:
    if not path.stem.isidentifier() or path.stem.startswith("__"):
        return False
    # A folder without code in it could be imported too, and would be nobody's app.
    return any(path.glob("*.py")) if path.is_dir() else path.suffix == ".py"


def _attribute(module: ModuleType, module_name: str, attribute: str) -> App:
    found: object = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            what = f'"{module_name}"{_elsewhere(module)} has no attribute "{attribute}".'
            raise AppNotLoaded(what, hint=_apps_in(module, attribute))
        found = getattr(found, part)
    if not isinstance(found, App):
        what = "a function" if callable(found) and not isinstance(found, type) else f"of type {type(found).__name__}"
        raise AppNotLoaded(
            f'"{module_name}:{attribute}"{_elsewhere(module)} is not an App, it is {what}.',
            hint=_apps_in(module, attribute),
        )
    return found


def _elsewhere(module: ModuleType) -> str:
    """Which file was loaded, when it is not one below the working directory, as whoever named it may believe."""
    if module.__spec__ is None or not module.__spec__.has_location or module.__file__ is None:
        return " (a part of Python itself)"
    return "" if _below(module.__file__, {Path.cwd()}) else f" (loaded from {module.__file__})"


def _shadowed(module: ModuleType) -> str:
    """The user's file that was not loaded because another module has its name, and what to do."""
    mine = [Path(module.__name__.replace(".", "/") + end) for end in (".py", "/__init__.py")]
    found = next((path for path in mine if path.is_file()), None)
    if found is None or not _elsewhere(module):
        return ""
    return f"{found} was not loaded, because another module has its name: rename it."


def _apps_in(module: ModuleType, attribute: str) -> str:
    if shadowed := _shadowed(module):
        return shadowed
    apps = [name for name, value in vars(module).items() if isinstance(value, App)]
    if apps:
        return f"Apps in it: {', '.join(f'{module.__name__}:{name}' for name in apps)}."
    public = [name for name in vars(module) if not name.startswith("_") and name != attribute]
    close = get_close_matches(attribute, public, n=1)
    near = f' The closest name is "{close[0]}".' if close else ""
    return f"There is no App in it.{near} Write: app = App(workflows=[...])"
