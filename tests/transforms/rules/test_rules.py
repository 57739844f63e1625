"""Rules for names: what each does, in which order, what is refused, and the line of every mistake. The presets, against what torch itself writes."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gsvckpt.errors import MissingError, RefusedError, UsageError
from gsvckpt.files import toml
from gsvckpt.transforms.rules import Rule, apply_rules, read_rules

NAMES = ["enc_q.pre.weight", "enc_q.norm.weight", "dec.pre.weight", "dec.norm.gamma", "module.dec.bias"]


def read(folder: Path, text: str | bytes) -> tuple[Rule, ...]:
    (folder / "rules.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_rules(str(folder / "rules.toml"))


def rename(rules, names):
    return list(apply_rules(rules, names).names.values())


# --- what rules do -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"rename = '^module\.(.*)'" + "\nto = '\\1'", [*NAMES[:4], "dec.bias"]),
        (r"rename = '(?P<part>enc)_(\w)'" + "\nto = '\\g<2>.\\g<part>'", ["q.enc.pre.weight", "q.enc.norm.weight", *NAMES[2:]]),
        ("rename = 'e'\nto = 'E'", [name.replace("e", "E") for name in NAMES]),  # everywhere, as re.sub does
        ("rename = '(x)?$'\nto = '\\1'", NAMES),  # a group that took no part is empty
        ("rename = '[[n]orm'\nto = 'n'", [name.replace("norm", "n") for name in NAMES]),  # of which Python warns
        ("drop = 'enc_q.*'", NAMES[2:]),
        ("drop = ['enc_q.pre.*', '*.bias']", NAMES[1:4]),
        ("keep = 'dec.*'", NAMES[2:4]),
        ("keep = ['dec.pre.*', '*.norm.*']", NAMES[1:4]),
        ("drop = 'DEC.*'", NAMES),
        ("strip-prefix = 'module.'", [*NAMES[:4], "dec.bias"]),
        ("strip-prefix = 'odul'", NAMES),
        ("add-prefix = 'model.'", [f"model.{name}" for name in NAMES]),
        ("preset = 'ddp'", [*NAMES[:4], "dec.bias"]),
    ],
)
def test_names(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert rename(read(tmp_path, "[[rule]]\n" + text), NAMES) == expected


def test_a_prefix_goes_once() -> None:
    assert rename([Rule("strip-prefix", "a.")], ["a.a.b"]) == ["a.b"]


def test_a_cast_goes_with_its_tensor_and_the_last_one_counts() -> None:
    rules = [Rule("cast", "*", "float16"), Rule("cast", "*.norm.*", "float32"), Rule("add-prefix", "m."), Rule("drop", "m.enc_q.*")]
    done = apply_rules(rules, NAMES)
    assert done.casts == {"m.dec.pre.weight": "float16", "m.dec.norm.gamma": "float32", "m.module.dec.bias": "float16"}
    assert list(done.casts) == list(done.names.values())


def test_rules_work_on_what_the_ones_before_left() -> None:
    strip, keep, drop = Rule("strip-prefix", "module."), Rule("keep", "dec.*"), Rule("drop", "module.*")
    assert rename([strip, keep, drop], NAMES) == ["dec.pre.weight", "dec.norm.gamma", "dec.bias"]
    assert rename([keep, strip, drop], NAMES) == ["dec.pre.weight", "dec.norm.gamma"]
    assert rename([drop, strip, keep], NAMES) == ["dec.pre.weight", "dec.norm.gamma"]


def test_each_keep_filters_on_its_own() -> None:
    assert rename([Rule("keep", "dec.*"), Rule("keep", "*.weight")], NAMES) == ["dec.pre.weight"]
    assert rename([Rule("keep", "dec.*", others=("*.weight",))], NAMES) == NAMES[:4]


def test_what_was_dropped_names_its_rule_and_every_rule_is_counted() -> None:
    drop, keep = Rule("drop", "enc_q.*", line=2), Rule("keep", "dec.*", line=4)
    rules = [drop, Rule("rename", "nothing", "x"), keep, keep, Rule("add-prefix", "m."), Rule("cast", "none", "float16")]
    done = apply_rules(rules, NAMES)
    assert done.dropped == {NAMES[0]: drop, NAMES[1]: drop, NAMES[4]: keep}
    assert done.used == tuple(zip(rules, [2, 0, 2, 2, 2, 0], strict=True))
    assert str(drop) == "drop 'enc_q.*' (line 2)"


def test_two_names_may_be_exchanged() -> None:
    rules = [Rule("rename", "^a$", "c"), Rule("rename", "^b$", "a"), Rule("rename", "^c$", "b")]
    assert apply_rules(rules, ["a", "b"]).names == {"a": "b", "b": "a"}


# --- what is refused ---------------------------------------------------------------------------------------------------------------------------


def test_two_names_never_become_one() -> None:
    with pytest.raises(RefusedError, match=r"a\.x and b\.x would both become x \(3 conflicts in all\)") as caught:
        apply_rules([Rule("rename", r"^[ab]\.", "")], ["a.x", "c.x", "b.x", "a.y", "b.y", "y"])
    assert caught.value.exit_code == 4
    assert caught.value.where == "x"
    with pytest.raises(RefusedError, match=r"\(1 conflict in all\)"):
        apply_rules([Rule("strip-prefix", "a.")], ["a.x", "x"])
    assert rename([Rule("strip-prefix", "a."), Rule("drop", "x")], ["a.x", "x", "y"]) == ["y"]  # both are let go


@pytest.mark.parametrize(
    ("rule", "name", "why"),
    [
        (Rule("rename", ".*", ""), "x", "empty"),
        (Rule("strip-prefix", "module."), "module.", "empty"),
        (Rule("add-prefix", "x" * 10_000), "x", "longer than 10,000"),
        (Rule("rename", "^", "x" * 10_000), "x", "longer than 10,000"),
        (Rule("rename", "(.*)", r"\1" * 5_000), "x" * 10_000, "longer than 10,000"),
        (Rule("rename", "(.*)", r"\1" * 5_000), "x" * 10_000_000, "longer than 10,000"),  # and without making it
        (Rule("rename", "", "x" * 1_000), "x" * 9_999, "longer than 10,000"),
    ],
)
def test_names_without_end_and_without_beginning(rule: Rule, name: str, why: str) -> None:
    with pytest.raises(RefusedError, match=why) as caught:
        apply_rules([rule._replace(line=7)], [name])
    assert "(line 7)" in caught.value.why
    assert len(caught.value.where) < 300
    assert len(caught.value.why) < 400


def test_long_names_that_no_rule_touches_stay() -> None:
    assert rename([Rule("rename", "^y", "z"), Rule("strip-prefix", "y")], ["x" * 20_000]) == ["x" * 20_000]


parts = st.sampled_from(["a", "b", "dec", "module", "norm", "weight", "weight_g"])
dotted = st.lists(parts, min_size=1, max_size=4).map(".".join)
some_rules = st.one_of(
    st.builds(Rule, st.sampled_from(["drop", "keep"]), st.sampled_from(["a*", "*.weight", "dec.*", "x"]), st.just(""), st.integers(1, 9)),
    st.builds(Rule, st.just("cast"), st.sampled_from(["a*", "*.weight"]), st.sampled_from(["float16", "float32"])),
    st.builds(Rule, st.just("rename"), st.sampled_from([r"^(\w+)\.", "a", r"\.", "(e)(i)"]), st.sampled_from(["", "b", ".z."])),
    st.builds(Rule, st.sampled_from(["strip-prefix", "add-prefix"]), st.sampled_from(["module.", "a.", "b"])),
)


@given(st.lists(some_rules, max_size=5), st.lists(dotted, unique=True, max_size=12))
def test_no_name_is_ever_lost(rules: list[Rule], names: list[str]) -> None:
    try:
        done = apply_rules(rules, names)
    except RefusedError:
        return
    assert list(done.names) == [name for name in names if name not in done.dropped]  # their order, too
    assert set(done.names) | set(done.dropped) == set(names)
    assert len(set(done.names.values())) == len(done.names)
    assert set(done.casts) <= set(done.names.values())
    assert [rule for rule, _ in done.used] == rules


# --- mistakes and their lines ------------------------------------------------------------------------------------------------------------------

GOOD = '[[rule]]\ndrop = "x"\n'


@pytest.mark.parametrize(
    ("text", "line", "why", "hint"),
    [
        # what is no TOML
        ("[[rule]]\ndrop = \n", 2, "not valid TOML", ""),
        ("\n\n[[rule]\n", 3, "not valid TOML", ""),
        ('# a\n[[rule]]\r\ndrop = "a"\r\ndrop = "b"\r\n', 4, "not valid TOML", ""),
        ('[[rule]]\ndrop = """x\ny\n', 3, "not valid TOML", ""),  # the parser says "at end of document"
        ("a = " + "[" * 100_000, None, "not valid TOML", ""),
        # the top
        ("", 1, "no rules", "ddp"),
        ("# nothing\n\n", 1, "no rules", "ddp"),
        ("# nothing\nrule = []\n", 2, "no rules", "ddp"),
        ('[[rules]]\ndrop = "x"\n', 1, "unknown key `rules`", "did you mean rule?"),
        (GOOD + '# [[rule]]\n[[rule]]\ndrop = "y"\n[other.thing]\nx = 1', 6, "unknown key `other`", "[[rule]]"),
        ('# x\n"a b".c = 1\n' + GOOD, 2, "unknown key `a b`", ""),
        ('\n[rule]\ndrop = "x"\n', 2, "must be a list of tables", "[[rule]]"),
        ('\nrule.drop = "x"\n', 2, "must be a list of tables", ""),
        ("# a\n[rule.x]\ny = 1\n", 2, "must be a list of tables", ""),
        ("# a\nrule = 3\n", 2, "must be a list of tables", ""),
        ("# a\nrule = [3]\n", 2, "must be a list of tables", ""),
        # keys
        (GOOD + '[[rule]]\n\n# x\nrenam = "x"\n', 6, "unknown key `renam`", "did you mean rename?"),
        (GOOD + '[[rule]]\ndrop = "x"\nxyzzy = 1\n', 5, "unknown key `xyzzy`", "known ones: rename, drop"),
        (GOOD + '[[rule]]\ndrop = "x"\n[rule.sub]\nx = 1\n', 5, "unknown key `sub`", ""),
        (GOOD + '[[rule]]\n"\\u0064rop" = "x"\n\'keap\' = "x"', 5, "unknown key `keap`", "did you mean keep?"),
        (GOOD + "\n  [[ rule ]]  # does nothing\n", 4, "does nothing", "rename"),
        (GOOD + '[["rule"]]\nto = "x"\n', 3, "does nothing", ""),
        ('[[rule]]\ndrop = "x"\n\nkeep = "y"\n', 4, "`keep` in a rule that has `drop`", ""),
        ('[[rule]]\npreset = "ddp"\ndrop = "x"\n', 3, "`drop` in a rule that has `preset`", ""),
        ('[[rule]]\nto = "x"\nrename = "x"\ndtype = "float16"', 4, "`dtype` cannot be combined with `rename`", ""),
        ('[[rule]]\nto = "x"\ndrop = "x"\n', 2, "`to` cannot be combined with `drop`", ""),
        ('[[rule]]\n\nrename = "x"\n', 3, "`rename` without `to`", ""),
        ('[[rule]]\n\ncast = "x"\n', 3, "`cast` without `dtype`", ""),
        # values
        ("[[rule]]\n\ndrop = 3\n", 3, "`drop` must be text", "quotes"),
        ('[[rule]]\nrename = ["x"]\nto = ""\n', 2, "`rename` must be text", ""),
        ('[[rule]]\nrename = "x"\nto = true\n', 3, "`to` must be text", ""),
        ("[[rule]]\nstrip-prefix = 1979-05-27\n", 2, "`strip-prefix` must be text", ""),
        ('[[rule]]\n[rule.drop]\nx = "y"', 2, "`drop` must be text", ""),
        ('[[rule]]\ndrop.x = "y"', 2, "`drop` must be text", ""),
        ('[[rule]]\nadd-prefix = ""', 2, "`add-prefix` is empty", ""),
        ('[[rule]]\nrename = ""\nto = "x"', 2, "`rename` is empty", ""),
        ("[[rule]]\nkeep = []", 2, "must be a glob or a list of globs", ""),
        ('[[rule]]\nkeep = [\n"a", # b\n3]', 2, "must be a glob or a list of globs", ""),
        ('[[rule]]\nkeep = ["a", ""]', 2, "must be a glob or a list of globs", ""),
        ('[[rule]]\nto = "x"\nrename = "(x"', 3, "not a regular expression", ""),
        ('[[rule]]\nto = "x"\nrename = "x{99999999999}"', 3, "not a regular expression", ""),
        ("[[rule]]\nrename = '(x)(?P<y>z)'\nto = '\\3'", 3, "invalid group reference 3", r"\1, \2, \g<y>"),
        ("[[rule]]\nrename = 'x'\nto = '\\g<z>'", 3, "unknown group name 'z'", "none"),
        ("[[rule]]\nrename = 'x'\nto = '\\q'", 3, "bad escape", ""),
        (f"[[rule]]\nrename = 'x'\nto = '{'x' * 10_001}'", 3, "longer than 10,000", ""),
        ('[[rule]]\ncast = "x"\ndtype = "flaot16"', 3, "no cast to 'flaot16'", "did you mean float16?"),
        ('[[rule]]\ncast = "x"\ndtype = "int8"', 3, "no cast to 'int8'", "bfloat16"),
        ('[[rule]]\n#\npreset = "dpd"', 3, "no preset 'dpd'", "did you mean ddp?"),
        ('[[rule]]\npreset = "../presets/ddp"', 2, "no preset", "lightning"),
        # what makes lines hard to tell
        ('[[rule]]\ndrop = """\n[[rule]]\nkeap = \\""" ""\n""""" # "\n[[rule]]\nkeap = 1', 7, "unknown key `keap`", ""),
        ("[[rule]]\ndrop = '''\n[[rule]]'\nkeap = \"\n'''''\n[[rule]]\nkeap = 1", 7, "unknown key `keap`", ""),
        ('[[rule]]\ndrop = "a#\\"=[[" # [[rule]]\nkeap = "]"', 3, "unknown key `keap`", ""),
        ('[[rule]]\ndrop = [\n  "a", # ]\n  "]",\n\n]\nkeap = 1', 7, "unknown key `keap`", ""),
        ('# a\n\nrule = [\n  {drop = "x"},\n  {keap = "y"},\n]', 3, "unknown key `keap`", ""),
        ('rule = [{drop = "x"}, {drop = ""}]', 1, "`drop` is empty", ""),
        ('[[rule]]\r\ndrop = "x"\r\n\r\nkeap = 1', 4, "unknown key `keap`", ""),
        (b"\xef\xbb\xbf[[rule]]\nkeap = 1", 2, "unknown key `keap`", ""),
        # what is no text
        (b"[[rule]]\n# \xff", 2, "not UTF-8 text", "UTF-8"),
        (b"#" * 1_000_001, None, "larger than 1,000,000 bytes", ""),
    ],
)
def test_mistakes(tmp_path: Path, text: str | bytes, line: int | None, why: str, hint: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)) as caught:
        read(tmp_path, text)
    path = str(tmp_path / "rules.toml")
    assert caught.value.where == (f"{path}:{line}" if line else path)
    assert caught.value.exit_code == 2
    assert hint in caught.value.hint.text


pieces = st.sampled_from(
    [
        "# [[rule]]\n",
        "\n",
        " \t\n",
        '[[rule]]\ndrop = "x"\n',
        '  [[rule]] # drop = """\n\n  keep = ["a", \'b\', # ]\n\n"""]\n""", ]\n',
        '[[ "rule" ]]\n"rename" = \'[=#"]\'\n# to\nto = ""\n',
        "[['rule']]\nadd-prefix = '''\n[[rule]]\nkeap = 1'''''\n",
        '[[rule]]\nstrip-prefix = """\\\n\\"\\"\\"\n"" x"""""\n',
        '[[rule]]\ncast = "x" # =\ndtype = "float16"\n',
    ]
)


@settings(max_examples=200)
@given(st.lists(pieces, max_size=8), st.lists(pieces, max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_the_line_is_right_whatever_stands_around_it(tmp_path_factory, before: list[str], after: list[str], newline: str) -> None:
    start = "".join(before) + '[[rule]]\n# here\ndrop = "x"\n'
    text = start + "keap = 3\n" + "".join(after)
    with pytest.raises(UsageError) as caught:
        read(tmp_path_factory.getbasetemp(), text.replace("\n", newline))
    assert caught.value.where.endswith(f"rules.toml:{start.count(chr(10)) + 1}")
    good = read(tmp_path_factory.getbasetemp(), start + "".join(after))
    lines = (start + "".join(after)).split("\n")
    assert all(re.match(r' *"?' + rule.action, lines[rule.line - 1]) for rule in good)


def test_rules_know_their_lines(tmp_path: Path) -> None:
    rules = read(tmp_path, '# x\n[[rule]]\nto = ""\nrename = "x"\n\n[[rule]]\npreset = "weight-norm-new"\n')
    assert [(rule.action, rule.line) for rule in rules] == [("rename", 4), ("rename", 7), ("rename", 7)]
    assert read(tmp_path, '\nrule = [{drop = ["a", "b"]}]') == (Rule("drop", "a", line=2, others=("b",)),)


# --- files and presets -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["no.toml", "dpd", "", "a\0b", "."])
def test_no_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingError, match="cannot be read") as caught:
        read_rules(name)
    assert caught.value.path == name
    assert "ddp, gsv-tts-lite, lightning, torch-compile" in caught.value.hint.text


def test_a_file_goes_before_a_preset_and_a_folder_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ddp").mkdir()
    (preset,) = read_rules("ddp")
    assert preset.action == "rename"
    (tmp_path / "ddp").rmdir()
    (tmp_path / "ddp").write_text(GOOD)
    assert read_rules("ddp") == (Rule("drop", "x", line=2),)


def test_presets_are_files_as_users_write_them(tmp_path: Path) -> None:
    folder = Path(__file__).parents[3] / "gsvckpt" / "transforms" / "rules" / "presets"
    presets = sorted(path.stem for path in folder.glob("*.toml"))
    assert presets == ["ddp", "gsv-tts-lite", "lightning", "torch-compile", "weight-norm-new", "weight-norm-old"]
    for name in presets:
        text = (folder / f"{name}.toml").read_text("utf-8")
        assert re.match(r"# For .*\.\n\n", text)
        assert tuple(rule._replace(line=0) for rule in read(tmp_path, text)) == read_rules(name)


def net() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Conv1d(2, 3, 1), torch.nn.Linear(3, 1))


def test_ddp() -> None:
    assert rename(read_rules("ddp"), torch.nn.DataParallel(net()).state_dict()) == list(net().state_dict())
    wrapped = [
        "module.module.a",
        "x.module.y",
        "_fsdp_wrapped_module.b._fsdp_wrapped_module.c",
        "module._fsdp_wrapped_module._checkpoint_wrapped_module.d",
    ]
    assert rename(read_rules("ddp"), wrapped) == ["a", "x.y", "b.c", "d"]
    others = ["modules.a", "my_module.b", "x.submodule.c", "module", "x.module"]
    assert rename(read_rules("ddp"), others) == others


def test_ddp_and_torch_compile_give_the_same_in_either_order() -> None:
    ddp, compiled = read_rules("ddp"), read_rules("torch-compile")
    names = ["module._orig_mod.a", "_orig_mod.module.b", "_orig_mod.module._orig_mod.x._orig_mod.c", "y.module._orig_mod.d", "e.weight"]
    for rules in ((*ddp, *compiled), (*compiled, *ddp)):
        assert rename(rules, names) == ["a", "b", "x.c", "y.d", "e.weight"]
    assert rename((*ddp, *compiled), {f"module.{name}": 0 for name in torch.nn.DataParallel(net()).state_dict()}) == list(net().state_dict())


def test_torch_compile() -> None:
    parted = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of what it uses itself
        parted.append(torch.compile(torch.nn.Linear(1, 1)))
        whole = torch.compile(parted)
    names = list(whole.state_dict())
    assert names[0] == "_orig_mod.0.weight"
    assert names[-1] == "_orig_mod.2._orig_mod.bias"
    assert rename(read_rules("torch-compile"), names) == list(net().append(torch.nn.Linear(1, 1)).state_dict())
    others = ["my_orig_mod.x", "a._orig_mods.x", "a._orig_mod"]
    assert rename(read_rules("torch-compile"), others) == others
    assert rename(read_rules("torch-compile"), ["_orig_mod._orig_mod.x"]) == ["x"]


def test_lightning() -> None:
    module = torch.nn.Module()
    module.model = net()
    assert rename(read_rules("lightning"), module.state_dict()) == list(net().state_dict())
    names = ["state_dict.model.a", "model.b", "model.model.c", "loss.weight", "ema_model.a", "state_dict.loss.a"]
    assert rename(read_rules("lightning"), names) == ["a", "b", "model.c", "loss.weight", "ema_model.a", "loss.a"]
    with pytest.raises(RefusedError):
        apply_rules(read_rules("lightning"), ["model.a", "a"])


def normed(norm, *, bare: bool):
    if bare:
        return norm(torch.nn.Conv1d(2, 3, 1))
    layers = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 1), torch.nn.ConvTranspose1d(3, 2, 2), torch.nn.LayerNorm(9))
    norm(layers[0])
    norm(layers[1])
    return layers


@pytest.mark.parametrize("bare", [True, False])
def test_weight_norm(*, bare: bool) -> None:
    new = normed(torch.nn.utils.parametrizations.weight_norm, bare=bare)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        old = normed(torch.nn.utils.weight_norm, bare=bare)
    assert list(old.state_dict()) != list(new.state_dict())
    assert rename(read_rules("weight-norm-new"), old.state_dict()) == list(new.state_dict())
    assert rename(read_rules("weight-norm-old"), new.state_dict()) == list(old.state_dict())
    names = apply_rules(read_rules("weight-norm-new"), old.state_dict()).names
    new.load_state_dict({names[name]: tensor for name, tensor in old.state_dict().items()})  # magnitude and direction are not exchanged
    signal = torch.rand(1, 2, 8)
    assert torch.allclose(new(signal), old(signal))


@pytest.mark.parametrize(
    "name", ["my_weight_g", "weight_g.a", "weight_g\n", "parametrizations.weight.original", "parametrizations.weight.original01"]
)
def test_weight_norm_leaves_other_names(name: str) -> None:
    assert rename([*read_rules("weight-norm-new"), *read_rules("weight-norm-old")], [name, f"a.{name}"]) == [name, f"a.{name}"]


words = st.sampled_from(["a", "weight", "bias", "xweight_g", "parametrizations"])
ends = {
    "old": st.sampled_from(["weight_g", "weight_v", "bias", "weight"]),
    "new": st.sampled_from(["parametrizations.weight.original0", "parametrizations.weight.original1", "bias", "weight"]),
}


@pytest.mark.parametrize(("form", "there", "back"), [("old", "weight-norm-new", "weight-norm-old"), ("new", "weight-norm-old", "weight-norm-new")])
@given(st.data())
def test_weight_norm_there_and_back_is_nothing(form: str, there: str, back: str, data: st.DataObject) -> None:
    names = data.draw(st.lists(st.tuples(st.lists(words, max_size=3), ends[form]).map(lambda pair: ".".join([*pair[0], pair[1]])), unique=True))
    moved = apply_rules(read_rules(there), names)
    assert rename(read_rules(back), moved.names.values()) == names
    assert sum(count for _, count in moved.used) == sum(old != new for old, new in moved.names.items())


# --- what rules may cost -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["(a|aa)+$", "^(a|aa)+b$"])
def test_a_pattern_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch, pattern: str) -> None:
    monkeypatch.setattr("gsvckpt.transforms.rules.apply.PATIENCE", 0.2)
    with pytest.raises(RefusedError, match="is too slow") as caught:
        apply_rules([Rule("rename", pattern, "x", 3)], ["a" * 200 + "!"])
    assert pattern in caught.value.why and "(line 3)" in caught.value.why


def test_many_rules_share_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsvckpt.transforms.rules.apply.PATIENCE", 0.05)
    with pytest.raises(RefusedError, match="is too slow"):
        apply_rules([Rule("drop", f"*x*y*{n}") for n in range(20_000)], ["a" * 1_000] * 20)


@pytest.mark.parametrize("pattern", ["(?:(?:a{1000}){1000}){1000}", "a{1000}{1000}{,1000}"])
def test_counts_that_multiply_are_refused(tmp_path: Path, pattern: str) -> None:
    with pytest.raises(UsageError, match="not a regular expression") as caught:
        read(tmp_path, f"[[rule]]\nrename = '{pattern}'\nto = ''")
    assert caught.value.where.endswith(":2")


def test_a_template_is_read_without_matching(tmp_path: Path) -> None:
    """Python's own engine takes forever even on an empty name: 2**40 ways to match nothing."""
    assert read(tmp_path, f"[[rule]]\nrename = '^{'(?:|)' * 40}(?P<n>x)$'\nto = '\\g<n>'")


@pytest.mark.parametrize(
    "pattern",
    [r"x*", r"(a)|b", r"(?i)A(?=b)", r"\bw", r"(?<=\.)(\w+)$", r"[^.]+", r"(?P<q>a)(?P=q)?", r"a??", r"^|$", r"\d{2,3}", r"."],
)
def test_names_are_renamed_as_python_does(pattern: str) -> None:
    template = r"<\g<0>>"
    for name in ("abxd", "a.b.weight", "aab.12.345", "Ab", "wow.w", "ä.ß", "xxaxx"):
        assert rename([Rule("rename", pattern, template)], [name]) == [re.sub(pattern, template, name)]


@pytest.mark.parametrize("text", [f"a{'.a' * 50_000}=1\n", f"[a{'.a' * 50_000}]\n", f"a = {{a{'.a' * 35}=1}}", f'a."b c"{" . a" * 35}=1'])
def test_a_key_of_endless_parts(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="a key of more than 32 parts"):
        read(tmp_path, text)


def test_dots_that_are_no_key(tmp_path: Path) -> None:
    dots = "x.y." * 40
    floats = ", ".join(["0.5"] * 50)
    text = f"# {dots}\n[[rule]]\ndrop = '{dots}'\n[[rule]]\ndrop = [\"{dots}\", '{dots}']  # {dots}\n"
    assert [rule.pattern for rule in read(tmp_path, text)] == [dots, dots]
    assert toml.load(f"a = [{floats}]\nb.c.d.e = 1") == {"a": [0.5] * 50, "b": {"c": {"d": {"e": 1}}}}


def test_values_of_a_document_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gsvckpt.files.toml.MOST_TOML", 100)
    for text in ("a = [" + "1," * 99 + "]", "".join(f"k{n} = 1\n" for n in range(101)), "[[a]]\n" * 51):
        with pytest.raises(ValueError, match="more than 100 values"):
            toml.load(text)
