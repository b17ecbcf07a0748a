"""Command lines that no command may take: every option of every command with values that are not one."""

from collections.abc import Iterator

WORDS = ["", " ", "abc", "nan", "1;2", "../../x", "--", "x" * 5000, "\N{SNOWMAN}", "None", "\udcff"]
NOT_INTEGERS = [*WORDS, "1.5", "1e3", "0x10", "inf"]
TOO_LARGE = ["99999999999999999999", "9" * 5000]
NOT_POSITIVE = ["0", "-1", "-99999999999999999999", "-inf"]
NOT_FRACTIONS = [
    *NOT_POSITIVE,
    "nan",
    "inf",
    "abc",
    "",
    "%",
    "1%%",
    "1%,",
    ",1%",
    "-1%",
    "nan%",
    "1e999",
    "1%;2%",
]
NOT_LISTS = [*WORDS, ",", "0,,1", "0,", "1.5", "0 1", "-1", "6", "99999999999999999999", "0,0"]
MINE = ["mine.py:build"]
ATTACK = ["attack.py:attack"]
REQUIRED = {
    "toy": [],
    "demo": [],
    "run": [*MINE, "--points", "0"],
    "audit": MINE,
    "poison": [*ATTACK, "--points", "0", "--radius", "0.1"],
    "choose": [*ATTACK, "--change", "drop", "--most", "1"],
    "path": ["mine.py:decayed", "--points", "0"],
    "resnet56": [
        "--weights",
        "net.th",
        "--data",
        "few.npz",
        "--points",
        "4",
        "--moved",
        "1",
        "--figure",
        "0",
    ],
}
SEEDS = [*NOT_INTEGERS, *TOO_LARGE, "-99999999999999999999"]
OUTS = [
    "mine.py",
    "mine.py/below",
    "/dev/null",
    "/proc/solset",
    "full",
    "x" * 300,
    "loop/a",
]
CHOICES = [*WORDS, "AUTO", "auto,auto"]
MOVING = {
    "--points": NOT_LISTS,
    "--direction": [*WORDS, "mine.py", "full", "nothing.safetensors", "pipe"],
    "--size": NOT_FRACTIONS,
    "--optimality": CHOICES,
    "--seed": SEEDS,
    "--out": OUTS,
}
OPTIONS: dict[str, dict[str, list[str]]] = {
    "toy": {"--seed": SEEDS, "--out": OUTS},
    "demo": {"--seed": SEEDS, "--out": OUTS, "--activation": CHOICES, "--direction": CHOICES},
    "run": {**MOVING, "--samples": [*NOT_INTEGERS, "-1", "9" * 5000]},
    "audit": {
        "--points": [one for one in NOT_LISTS if one],
        "--validation": [one for one in WORDS if one] + ["fails", "other", "build"],
        "--layer": [one for one in WORDS if one] + ["["],
        "--joint": CHOICES,
        "--optimality": CHOICES,
        "--top": [*NOT_INTEGERS, "0", "-1"],
        "--out": OUTS,
    },
    "poison": {
        "--points": NOT_LISTS,
        "--radius": [*NOT_POSITIVE, "nan", "abc", ""],
        "--norm": CHOICES,
        "--scope": CHOICES,
        "--lower": ["nan", "abc", "inf", ""],
        "--upper": ["nan", "abc", "-inf", ""],
        "--training": [*NOT_INTEGERS, "-1", "9" * 5000],
        "--learning-rate": [*NOT_POSITIVE, "nan", "abc", "inf"],
        "--rounds": [*NOT_INTEGERS, "0", "-1"],
        "--random": [*NOT_INTEGERS, "-1"],
        "--from-scratch": [one for one in NOT_LISTS if one not in {"", "-1", "6", "0,0", " "}],
        "--image": [one for one in WORDS if one] + ["8", "x", "8x", "0x8", "-1x-2", "8x8x8", "9x9", "8,8,1"],
        "--seed": SEEDS,
        "--out": OUTS,
    },
    "choose": {
        "--change": CHOICES,
        "--most": [*NOT_INTEGERS, "0", "-1"],
        "--points": [one for one in NOT_LISTS if one],
        "--labels": [*WORDS, "1", "0,1"],
        "--tried": [*NOT_INTEGERS, "0", "-1"],
        "--breadth": [*NOT_INTEGERS, "0", "-1"],
        "--random": [*NOT_INTEGERS, "-1"],
        "--seed": SEEDS,
        "--out": OUTS,
    },
    "path": {**MOVING, "--max-error": ["0", "1", "-1", "nan", "inf", "abc", ""]},
    "resnet56": {
        "--data": [*WORDS, "mine.py", "full", "net.th", "pipe"],
        "--weights": [*WORDS, "mine.py", "full", "few.npz", "pipe"],
        "--points": [*NOT_INTEGERS, *NOT_POSITIVE, *TOO_LARGE],
        "--moved": [*NOT_LISTS, "0"],
        "--size": NOT_FRACTIONS,
        "--retraining": [*NOT_INTEGERS, "-1"],
        "--figure": [*NOT_INTEGERS, "-1", "5"],
        "--resolution": [*NOT_INTEGERS, "1", "0", "-1"],
        "--memory": [*NOT_POSITIVE, "nan", "inf", "abc"],
        "--seed": SEEDS,
        "--out": OUTS,
    },
}
SOURCES = [
    *WORDS,
    "mine.py",
    "mine.py:",
    ":build",
    "full:build",
    "mine.py:fails",
    "mine.py:other",
    "/dev/null:x",
]
SOURCES += [
    "mine.py:build:build",
    "mine.py:__name__",
    "nothing.py:build",
    "x" * 300 + ".py:build",
    "broken.py:f",
]


def command_lines() -> Iterator[list[str]]:
    """One bad value at a time, besides what the command needs."""
    for command, options in OPTIONS.items():
        for option, values in options.items():
            for value in values:
                yield [command, *REQUIRED[command], f"{option}={value}"]
    for command in ("run", "audit", "path", "poison", "choose"):
        for source in SOURCES:
            if not source.startswith("--"):
                yield [command, source, *REQUIRED[command][1:]]
    yield ["nothing"]
    yield ["run", "--nothing"]
    yield ["run"]
    yield ["run", *MINE]
    yield ["poison", *ATTACK, "--points", "0"]
    yield ["toy", "more"]
    yield ["toy", "--seed"]
