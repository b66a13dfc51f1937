"""mvc.toml: read, checked, written and edited.

Owns the file's text: the commented one that `mvc init` writes, edits that keep comments, and every
message about a key that is wrong. Names, types, defaults and bounds are `mvc.settings`'; what a
setting does is the engine's. Refuses anything that it does not know: an unknown key is an error.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
from msgspec.structs import asdict

from mvc.errors import ConfigError, UsageError
from mvc.settings import HORIZON_SCHEDULES, BaseSettings, Settings
from mvc.store.layout import CONFIG, Layout
from mvc.store.template import TEMPLATE

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

_MODULE = re.compile(r"[\w.-]+")
_DEFAULTS = Settings(base=BaseSettings(model=""))
_TABLES: dict[str, tuple[str, ...]] = {
    table: getattr(_DEFAULTS, table).__struct_fields__ for table in Settings.__struct_fields__
}
_KEYS = [f"{table}.{key}" for table, keys in _TABLES.items() for key in keys]

_FIXED_ON_A_LINE = (
    "base.digest",  # not its name: the same weights may lie elsewhere on another machine
    "base.quantization",
    "lora.r",
    "lora.alpha",
    "lora.target_modules",
    "lora.modules_to_save",
    "lora.use_dora",
    "lora.use_rslora",
)


def parse(text: str, name: str = CONFIG) -> Settings:
    """Decode and check the text of an mvc.toml.

    An int is accepted where a float is expected; nothing else is converted.

    Args:
        text: The file's content.
        name: What errors call the file.

    Raises:
        ConfigError: TOML syntax, an unknown key, a wrong type or value, values that contradict
            each other. The message names line and key.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: {error}", f"correct that line of {name}") from error
    try:
        settings = msgspec.convert(data, Settings, strict=True)
    except msgspec.ValidationError as error:
        _explain(str(error), text, name, error)
    for key, problem, hint in _contradictions(settings):
        raise ConfigError(f"{_place(text, name, key)}: `{key}` {problem}", hint)
    return settings


def load(layout: Layout) -> Settings:
    """Read the mvc.toml of a model repo.

    Raises:
        ConfigError: the file is absent, not UTF-8, or wrong (see `parse`).
    """
    if layout.config.is_symlink():
        raise ConfigError(
            f"{CONFIG} is a link; a model repo's settings are a file of its own",
            f"bring the last one back with `rm {CONFIG}` and `git checkout HEAD -- {CONFIG}`",
        )
    try:
        text = layout.config.read_bytes().decode()
    except OSError as error:
        raise ConfigError(
            f"{CONFIG} cannot be read: {error.strerror}",
            f"bring back the last one with `git checkout HEAD -- {CONFIG}`",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{CONFIG} is not UTF-8 (byte {error.start})", f"save {CONFIG} again as UTF-8"
        ) from error
    return parse(text)


def new_text(base: BaseSettings, sets: Sequence[str] = ()) -> str:
    """The mvc.toml that `mvc init` writes: short, every key with its default and a comment.

    Args:
        base: The base model, resolved.
        sets: `KEY=VALUE` edits on top, as `set_values` takes them.

    Raises:
        ConfigError: an edit names an unknown key or gives a value that `parse` refuses.
        UsageError: an edit holds no `=`.
    """
    import tomlkit

    document: Any = tomlkit.parse(TEMPLATE)
    document["base"].update(asdict(base))
    text = set_values(tomlkit.dumps(document), sets)
    parse(text)
    return text


def set_values(text: str, sets: Sequence[str]) -> str:
    """Edit the text of an mvc.toml, keeping its comments; the values are not checked.

    Args:
        text: The file's content.
        sets: `KEY=VALUE`, the key dotted (`train.learning_rate=1e-3`), the value as TOML writes
            it; a string needs no quotes (`train.schedule=linear`).

    Raises:
        ConfigError: an unknown key, or `text` is no TOML.
        UsageError: an edit holds no `=`.
    """
    import tomlkit
    import tomlkit.exceptions

    try:
        document: Any = tomlkit.parse(text)
    except tomlkit.exceptions.ParseError as error:
        raise ConfigError(f"{CONFIG}: {error}", f"correct that line of {CONFIG}") from error
    for edit in sets:
        dotted, equals, raw = (part.strip() for part in edit.partition("="))
        if not equals:
            raise UsageError(
                f"`{edit}` is not KEY=VALUE", "write for example `--set train.learning_rate=1e-3`"
            )
        if dotted not in _KEYS:
            raise ConfigError(f"unknown key `{dotted}`", _nearest(dotted))
        table, key = dotted.split(".")
        document.setdefault(table, tomlkit.table())[key] = _value(table, key, raw)
    return str(tomlkit.dumps(document))


def check_line(now: Settings, line: Settings) -> None:
    """Refuse a change of what is fixed for the life of a line: base model and LoRA shape.

    `lora.dropout` may change: it shapes no weight.

    Args:
        now: The settings of the batch that is about to be trained.
        line: Those that the line was trained with.

    Raises:
        ConfigError: names the key, both values and the way out.
    """
    for dotted in _FIXED_ON_A_LINE:
        table, key = dotted.split(".")
        new, old = getattr(getattr(now, table), key), getattr(getattr(line, table), key)
        if _unordered(new) != _unordered(old):
            raise ConfigError(
                f"{CONFIG}: `{dotted}` is {_shown(new)}, but this line was trained with "
                f"{_shown(old)}; it cannot change on a line",
                f"put `{key} = {_shown(old)}` back under [{table}], or begin a new model: "
                f"`mvc init NEW_DIR --base REF --set {dotted}=...`",
            )


def zone(settings: Settings) -> ZoneInfo:
    """The zone of all dates: `snapshot.zone`, or the machine's where that is empty.

    Raises:
        ConfigError: the machine's zone cannot be told.
    """
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    if settings.snapshot.zone:
        return ZoneInfo(settings.snapshot.zone)
    import tzlocal

    try:
        # Not get_localzone: that one remembers the first answer, and a daemon outlives it.
        return tzlocal.reload_localzone()
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigError(
            "this machine's time zone is unknown",
            f'name one in {CONFIG}: `zone = "Europe/Berlin"` under [snapshot]',
        ) from error


def _contradictions(settings: Settings) -> Iterator[tuple[str, str, str]]:
    """What the types cannot say: (key, problem, hint), the first of which `parse` raises."""
    base, lora, train, snapshot = settings.base, settings.lora, settings.train, settings.snapshot
    if not base.model:
        yield "base.model", "is empty", "name a hub id, a folder, a GGUF file or smollm2-135m"
    if not lora.target_modules or not all(lora.target_modules):
        yield (
            "lora.target_modules",
            "names no module",
            'write "all-linear" or a list such as ["q_proj", "v_proj"]',
        )
    if isinstance(lora.target_modules, str) and not _MODULE.fullmatch(lora.target_modules):
        yield (
            "lora.target_modules",
            "is a pattern, which a stored adapter may not have: one can be written that never ends",
            'write "all-linear" or a list such as ["q_proj", "v_proj"]',
        )
    for key in ("learning_rate", "weight_decay", "max_grad_norm"):
        if not math.isfinite(getattr(train, key)):
            yield f"train.{key}", "is not a finite number", "write a number such as 2e-4"
    if train.schedule in HORIZON_SCHEDULES:
        if train.schedule_scope == "lifetime" and not train.horizon_steps:
            yield (
                "train.horizon_steps",
                f'is 0, but the schedule "{train.schedule}" must know when it ends',
                "set horizon_steps to the lifetime steps of this line, or write "
                '`schedule_scope = "batch"` to run it once in every batch',
            )
        if train.horizon_steps and train.warmup_steps >= train.horizon_steps:
            yield (
                "train.warmup_steps",
                f"is {train.warmup_steps}, not below horizon_steps = {train.horizon_steps}",
                "make the warm-up shorter or the horizon longer",
            )
    if not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", snapshot.at) and not _is_cron(
        snapshot.at
    ):
        yield (
            "snapshot.at",
            f'is "{snapshot.at}", not a time of day',
            'write HH:MM ("03:00") or a cron expression of five fields ("0 3 * * 1")',
        )
    if snapshot.zone:
        from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

        try:
            ZoneInfo(snapshot.zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            yield (
                "snapshot.zone",
                f'is "{snapshot.zone}", which is no known zone',
                'write a name such as "Europe/Berlin" or "UTC", or "" for this machine\'s',
            )
    if settings.launch.nnodes > 1 and not settings.launch.rdzv_endpoint:
        yield (
            "launch.rdzv_endpoint",
            "is empty, but the machines must meet somewhere",
            'write HOST:PORT of the first machine, for example "10.0.0.1:29500"',
        )


def _is_cron(text: str) -> bool:
    """Whether it is a cron expression of five fields that names some time."""
    if not re.fullmatch(r"[-0-9*,/#A-Za-z]+( +[-0-9*,/#A-Za-z]+){4}", text):
        return False
    from croniter import CroniterError, croniter

    try:
        return croniter(text).get_next() is not None
    except CroniterError:
        return False


def _explain(said: str, text: str, name: str, error: Exception) -> NoReturn:
    """Say a message of msgspec in the words of the file."""
    found = re.fullmatch(r"(.*?)(?: - at `\$\.?(.*?)(?:\[.*)?`)?", said)
    what, path = (found[1], found[2] or "") if found else (said, "")
    field = re.fullmatch(r"Object (contains unknown|missing required) field `(.*)`", what)
    if field:
        dotted = f"{path}.{field[2]}".removeprefix(".")
        if field[1].startswith("missing"):
            message, hint = f"{name}: `{dotted}` is missing", f"add `{dotted}` to {name}"
        else:
            message = f"{_place(text, name, dotted)}: unknown key `{dotted}`"
            hint = _nearest(dotted)
    else:
        # msgspec says object and array, a TOML file has tables and lists.
        plain = what.replace("`object`", "a table").replace("array", "list")
        message = f"{_place(text, name, path)}: `{path}`: {plain[:1].lower()}{plain[1:]}"
        hint = f"correct `{path}` in {name}"
        table, _, key = path.partition(".")
        if path in _KEYS:
            hint += f"; its default is {_shown(getattr(getattr(_DEFAULTS, table), key))}"
    raise ConfigError(message, hint) from error


def _nearest(dotted: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(dotted, [*_KEYS, *_TABLES], n=1, cutoff=0.6)
    # A key under no table or the wrong one is nearer than spelling can tell.
    close = [key for key in _KEYS if key.split(".")[1] == dotted.split(".")[-1]][:1] or close
    if close:
        return f"did you mean `{close[0]}`?"
    table = dotted.split(".")[0]
    return (
        f"[{table}] knows {', '.join(_TABLES[table])}"
        if table in _TABLES
        else (f"the tables are {', '.join(f'[{known}]' for known in _TABLES)}")
    )


def _place(text: str, name: str, dotted: str) -> str:
    """`name`, with the line that sets `dotted` where a plain look finds one."""
    table = dotted.rpartition(".")[0]
    here = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[+\s*([^\[\]]*?)\s*\]", line):
            here = header[1]
            if here == dotted:
                return f"{name}, line {number}"
        elif (assigned := re.match(r"\s*[\"']?([\w.-]+)[\"']?\s*=", line)) and (
            f"{here}.{assigned[1]}".removeprefix(".") in (dotted, table)
        ):
            return f"{name}, line {number}"
    return name


def _value(table: str, key: str, raw: str) -> Any:
    """A `--set` value: TOML where it reads as what the key takes, else the bare string."""
    import tomlkit

    try:
        parsed = tomllib.loads(f"value = {raw}")
    except tomllib.TOMLDecodeError:
        return raw
    value = parsed["value"]
    wants_text = isinstance(getattr(getattr(_DEFAULTS, table), key), str)
    kinds = (str, list) if wants_text else (bool, int, float, str, list, dict)
    if len(parsed) > 1 or not isinstance(value, kinds):
        return raw
    if isinstance(value, dict):
        inline = tomlkit.inline_table()  # a dict would become a table of its own
        inline.update(value)
        return inline
    return value


def _unordered(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    """A value as mvc.toml writes it."""
    import tomlkit

    return str(tomlkit.item(value).as_string())
