"""Remove what a checkpoint reveals of its owner's disk: folders, and the name of the experiment."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cached_property

from gsvckpt.transforms.plan import Change, Plan
from gsvckpt.transforms.tree import edited, rebuild

NEUTRAL = "voice"  # what an experiment is called afterwards
_PUBLIC = frozenset({NEUTRAL, "GPT_SoVITS", "pretrained_models"})  # names that tell nothing, the latter two of upstream's own folders
_MOST_PASSES = 10  # what is left of one path may be part of another, in texts made for that
_MOST_TOLD = 60  # characters of a text in the list of changes

_LETTER = r"""[^\s\\/"'`<>|;:,=“”„«»「」『』]"""
_DRIVE = rf"(?<![A-Za-z0-9_])[A-Za-z]:[\\/]+{_LETTER}"
# A word in a part of a path: no separator, quote or space, no mark that ends a path in a sentence unless more of the word follows, no other drive.
_WORD = rf"(?:(?!{_DRIVE})(?:{_LETTER} | (?<=\w)'(?=\w) | [:,=](?={_LETTER})))+"
_FILE = r"""[^\s\\/]*\.(?:[A-Za-z][A-Za-z0-9]{0,3}|safetensors)[.,;:)]*\s"""  # the path of a sentence ends with a file
_PART = rf"(?:(?!{_FILE}){_WORD}[ ]{{1,2}}){{0,5}}{_WORD}"
_ROOTS = "home|Users|root|mnt|media|data|tmp|var|opt|srv|usr|workspace|Volumes|content|kaggle|autodl-[a-z]+"
_BEFORE = r"(?:(?<![A-Za-z0-9_.\\/)\]}~%$@-]) | (?<=\\[nrt]))"  # where a path begins: no other path ends there; JSON spells line ends so

# Where a private path begins: with a drive, a share, a home folder, a variable, out of the folder, or at the root.
_START = rf"""
    (?<![A-Za-z0-9_])file:[\\/]+(?:[A-Za-z]:[\\/]+)?(?={_WORD})
  | (?<![A-Za-z0-9_])(?:[A-Za-z]:[\\/]+)+(?={_WORD})
  | (?<![A-Za-z0-9_])[A-Z]:(?={_PART}\\+{_WORD})
  | {_BEFORE}\\{{2,}}[?.]\\+(?:UNC\\+)?(?:[A-Za-z]:[\\/]+)?(?={_WORD})
  | {_BEFORE}\\{{2,}}(?={_PART}[\\/]+{_WORD})
  | {_BEFORE}\\(?=Users[\\/]+{_WORD})
  | {_BEFORE}~(?:[A-Za-z_][\w.-]*)?[\\/]+(?={_WORD})
  | {_BEFORE}%[A-Za-z_][\w()]*%[\\/]+(?={_WORD})
  | {_BEFORE}\$(?:env:\w+|[A-Z][A-Z0-9_]*|\{{[A-Z][A-Z0-9_]*\}})[\\/]+(?={_WORD})
  | {_BEFORE}(?:[\w.-]+[\\/]+)*\.\.[\\/]+(?={_WORD})
  | {_BEFORE}/+(?=(?:{_ROOTS})[\\/]+{_WORD})
  | {_BEFORE}(?<!\w)/+(?={_PART}[\\/]+{_WORD})
"""
_PRIVATE = rf"""(?x)
    (?P<url>(?<![A-Za-z0-9+.-])(?!file:)[A-Za-z][A-Za-z0-9+.-]+://[^\s/\\"'<>][^\s"'<>]*)
  | (?:{_START})(?:{_PART}[\\/]+(?={_WORD}))*(?P<last>{_WORD})(?:[\\/]+(?=["'\s]|\Z))?
"""  # text, which `re` compiles at first use
_RUN = r"(?:logs_s[12]|GPT_weights|SoVITS_weights)(?:_v\w+)?(?![^\\/\s\"'])"  # such folders tell the version, whatever they begin with
_NAMING = frozenset(  # keys of what people call their runs; `name` and `exp_name` are GPT-SoVITS's own
    "name exp_name exp experiment experiment_name run run_name model_name speaker speaker_name spk spk_name voice project title".split()
)


def scrub(plan: Plan, scrubber: Scrubber, names: Collection[str], in_header: Callable[[str], bool]) -> Plan:
    """Plan to scrub every text in the tree and those of a header whose keys `in_header` takes; of the keys of dicts, only paths.

    `names` are those of tensors, which stay, slashes or not.
    """
    done: dict[str, str] = {}

    def told(old: str, new: str) -> str:
        if new != old:
            done[old] = new
        return new

    def change(value: object) -> object:
        if isinstance(value, str):
            return value if value in names else told(value, scrubber.without_paths(value))
        if isinstance(value, dict):
            texts = {key: told(part, scrubber.scrub(part, key)) for key, part in value.items() if isinstance(part, str) and part not in names}
            return edited(value, value | texts) if any(value[key] != part for key, part in texts.items()) else value
        if isinstance(value, list) or type(value) is tuple:
            parts = [told(part, scrubber.scrub(part)) if isinstance(part, str) and part not in names else part for part in value]
            return type(value)(parts) if any(one is not two and one != two for one, two in zip(parts, value, strict=True)) else value
        return value

    root = rebuild(plan.root, change)
    header = {key: told(value, scrubber.scrub(value, key)) if in_header(key) else value for key, value in plan.metadata.items()}
    return replace(plan, metadata=header).with_root(root, *(_tell(old, new) for old, new in done.items())) if done else plan


def _tell(old: str, new: str) -> Change:
    """What is told of a text that was changed: not the text, which is private."""
    return Change("scrub-paths", "text", f"{len(old):,} characters", new if len(new) <= _MOST_TOLD else f"{new[:_MOST_TOLD]}...")


class Scrubber:
    """The rules of `--scrub-paths` for one text.

    Of every private path in it the last part stays, and the text around it: a path with a drive, a share, a home folder or a variable in front, one
    that leads out of the folder (`..`), or one from the root through at least one folder. Web addresses and other relative paths stay. The name of an
    experiment becomes `voice`: as part of a path or of a file's name, in texts of several words, and under keys such as `name`.
    """

    def __init__(self, experiments: Collection[str]) -> None:
        self._names = sorted((name for name in experiments if name and name not in _PUBLIC), key=len, reverse=True)

    def scrub(self, text: str, key: object = "") -> str:
        """A text that is a value, in a dict under `key`."""
        if self._names and text.lstrip()[:1] in ("{", "["):  # JSON, or the repr of a dict
            text = self._entry.sub(rf"\g<1>{NEUTRAL}", text)
        elif self._names and (re.search(r"\S\s+\S", text) or (key in _NAMING and not re.search(r"[\\/]", text))):
            text = self._word.sub(NEUTRAL, text)
        return self.without_paths(text)

    def without_paths(self, text: str) -> str:
        """A text without private paths, and without the experiment's name in paths and names of files."""
        for _ in range(_MOST_PASSES):
            before = text
            if self._names:
                text = self._part.sub(NEUTRAL, text)
            if "/" in text or "\\" in text:
                text = re.sub(_PRIVATE, lambda match: match["url"] or match["last"], text)
            if text == before:
                break
        return text

    def file_name(self, name: str) -> str:
        """A file's name without the experiment's at its beginning."""
        return self._part.sub(NEUTRAL, f"/{name}")[1:] if self._names else name

    @cached_property
    def _any(self) -> str:
        return f"(?:{'|'.join(map(re.escape, self._names))})"

    @cached_property
    def _part(self) -> re.Pattern[str]:
        to_end, begin = r"(?=[\\/\s\"']|\Z)", r"(?=[-_.])"
        return re.compile(
            rf"(?<=[\\/])(?:{self._any}{to_end}|(?!{_RUN}){self._any}{begin})"
            rf"|(?<![^\s\"'=:,(]){self._any}(?:(?=[\\/])|(?=[-_]e[0-9]+(?:_s[0-9]+(?:_l[0-9]+)?)?\.))"
        )

    @cached_property
    def _word(self) -> re.Pattern[str]:
        return re.compile(rf"(?<!\w){self._any}(?![^\W_])")

    @cached_property
    def _entry(self) -> re.Pattern[str]:
        return re.compile(rf"((?P<key>[\"'])(?:{'|'.join(_NAMING)})(?P=key)\s*:\s*(?P<value>[\"'])){self._any}(?=(?P=value))")
