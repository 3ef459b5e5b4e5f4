"""What the columns of a log seem to be, from their names and their first rows: which may be observed, and what the rest is for.

Nothing found here is certain. Each guess that is not plain comes with a question for a person.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stitchrl.data.schema import ROLES
from stitchrl.messages import listed
from stitchrl.reading.sources.source import Column
from stitchrl.types import NumpyArray

__all__ = ["Sorted", "sort_columns"]

# fmt: off
HINTS: Mapping[str, frozenset[str]] = {
    "group": frozenset({
        "patient", "subject", "user", "customer", "client", "person", "member", "driver", "machine", "device", "usuario",
        "paciente", "kunde", "nutzer",
    }),
    "episode": frozenset({
        "stay", "visit", "encounter", "admission", "session", "trip", "trajectory", "episode", "hadm", "icustay", "aufenthalt",
        "besuch", "sejour", "visite",
    }),
    "time": frozenset({
        "time", "date", "datetime", "timestamp", "zeit", "datum", "zeitpunkt", "heure", "fecha", "hora", "charttime",
    }),
    "action": frozenset({
        "action", "treatment", "treated", "therapy", "drug", "medication", "dose", "dosage", "intervention", "decision", "arm",
        "offer", "therapie", "behandlung", "traitement", "tratamiento", "medikament",
    }),
    "terminated": frozenset({
        "end", "ended", "ends", "terminal", "done", "last", "final", "ende", "letzte", "fin", "fini", "dernier", "termine",
        "dead", "died", "death", "deceased",
    }),
    "truncated": frozenset({
        "truncated", "censored", "transferred", "timeout", "cutoff", "aborted", "interrupted",
    }),
    "reward": frozenset({
        "reward", "outcome", "click", "clicked", "revenue", "profit", "belohnung", "ergebnis", "recompense",
    }),
    "propensity": frozenset({"propensity", "pscore"}),
}
"""Role -> words in the names of columns that may have it, in the order in which roles choose."""
IDENTIFIERS = frozenset({
    "id", "ids", "key", "uuid", "guid", "nr", "num", "number", "name", "email", "row", "index", "idx", "mrn",
})
LIMITS = frozenset({"limit", "max", "maximum", "horizon", "deadline", "budget", "zeitlimit"})
# fmt: on
QUESTIONS = {
    "episode": "Does {} tell one episode from another? It was taken for its name.",
    "action": "Is {} what was decided? It was taken for its name.",
    "terminated": "Does {} mark ends of the task itself, as a death or a discharge? A time limit or the end of the recording "
    "belongs under `truncated`. It was taken for its name.",
    "truncated": "Does {} mark where the recording stopped although the task went on? It was taken for its name.",
    "reward": "Is {} what should be as large as possible? It was taken for its name.",
}
"""Role -> what a person should answer where a column was taken for it."""
ALONE = ("action", "terminated", "reward")
"""Roles for which no column is chosen where several might have them."""
DATE = r"^\s*(\d{4}-\d{1,2}-\d{1,2}|\d{1,2}[./-]\d{1,2}[./-]\d{2,4})"
"""How text begins that says a date."""
OUTCOMES = frozenset({
    "survived", "died", "dead", "deceased", "death", "discharged", "outcome", "reward", "cost", "label", "mortality", "return",
    "returns",
})  # fmt: skip
"""Words that name outcomes. A column named by one of them must not be observed: it would tell a policy the future."""
LATER = frozenset({"next", "future", "following", "later"})
PROBABILITIES = frozenset({"p", "prob", "proba", "probability", "propensity"})
"""First words of the names of columns that say what comes after a decision, and how likely its actions were."""
WANTED = frozenset({"survived", "discharged", "outcome"})
"""Those of which more is better, as of a reward."""
GOOD = WANTED | {"alive", "home", "recovered", "success", "solved", "cured", "bought", "paid", "won", "yes"}
"""Words for ends that are wanted."""
MOST_ENDS = 10
"""The most words of a column that says how episodes ended."""
MOST_CATEGORIES = 50
"""The most different values of a column that is proposed to be categories."""


@dataclasses.dataclass
class Sorted:
    """What each column seems to be.

    Attributes:
        roles: role -> column or columns.
        observed: the columns that may be observed.
        apart: the others -> why they are not offered as observations, as the end of a sentence.
        questions: what a person should answer, one sentence each.
        ends: the words of the column `terminated`, where it says in words how episodes ended.
        reward: an expression in place of a column of rewards; None where there is a column or nothing suggests one.
    """

    roles: dict[str, str | tuple[str, ...]]
    observed: list[str]
    apart: dict[str, str]
    questions: list[str]
    ends: tuple[str, ...] | None = None
    reward: str | None = None


def sort_columns(
    names: Sequence[str], columns: Mapping[str, Column], known: Mapping[str, str | tuple[str, ...]]
) -> Sorted:
    """Sort the columns of a log.

    Args:
        names: the columns.
        columns: their first rows, of those that have any.
        known: role -> column, where names leave no doubt.
    """
    found = Sorted(dict(known), [], {}, [])
    free = [n for n in names if n not in used(found.roles)]
    if "observation" in found.roles:
        return found
    _settle_words(found, columns)
    free = [n for n in free if n not in used(found.roles)]
    for role, words in HINTS.items():
        if (
            role in found.roles
            or (role == "reward" and found.reward)
            or (role == "propensity" and "behavior_log_prob" in found.roles)
        ):
            continue
        fitting = [n for n in free if _named_like(role, words, n) and _may_be(role, columns.get(n))]
        if role == "reward" and not fitting:  # what is named like an outcome is no observation, but may be the reward
            fitting = [n for n in free if WANTED & set(words_of(n)) and _may_be(role, columns.get(n))]
        if role in ALONE and len(fitting) > 1:
            found.questions.append(f"Which of {listed(map(repr, fitting))} is the {role}? Their names allow for each.")
            found.apart |= dict.fromkeys(fitting, f"perhaps the {role}")
            free = [n for n in free if n not in fitting]
        elif fitting:
            found.roles[role] = fitting[0]
            free.remove(fitting[0])
            if question := QUESTIONS.get(role):
                found.questions.append(question.format(repr(fitting[0])))
    _settle_episode(found, columns)
    free = _settle_pairs(found, free, columns)
    for name in free:
        if (reason := _why_apart(name, columns.get(name))) is not None:
            found.apart[name] = reason
        else:
            found.observed.append(name)
    found.roles = {role: found.roles[role] for role in ROLES if role in found.roles}
    return found


def used(roles: Mapping[str, str | tuple[str, ...]]) -> set[str]:
    """The columns that have a role."""
    return {n for column in roles.values() for n in ((column,) if isinstance(column, str) else column)}


def words_of(name: str) -> list[str]:
    """The words in the name of a column, in lower case: "PatientID" has patient and id."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return [word for word in re.split(r"[^a-zäöüßéèêáíóúñç]+", apart.lower()) if word]


def is_number(column: Column | None) -> bool:
    """Whether a column holds numbers or bools."""
    if column is None:
        return False
    if isinstance(column, np.ndarray):
        return column.dtype.kind in "biuf"
    kind = column.type
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def vocabulary(column: Column | None) -> tuple[str, ...] | None:
    """The sorted different values of a text column; None if there are too many, or for any other column."""
    array = pa.array(column) if isinstance(column, np.ndarray) and column.ndim == 1 else column
    if not isinstance(array, pa.Array) or not (pa.types.is_string(array.type) or pa.types.is_dictionary(array.type)):
        return None
    values = [v for v in pc.unique(array.cast(pa.string())).to_pylist() if v is not None]
    return tuple(sorted(values)) if 0 < len(values) <= MOST_CATEGORIES else None


def ends_of(column: Column | None) -> NumpyArray | None:
    """(n,) which rows a column of two values marks, the rarer of them; None for any other column."""
    codes = _codes(column)
    if codes is None or int(codes.max(initial=-1)) != 1:
        return None
    marked: NumpyArray = codes == (codes.mean() < 0.5)
    return marked


def _named_like(role: str, words: frozenset[str], name: str) -> bool:
    """Whether the name of a column suggests a role; a time limit is no time."""
    held = set(words_of(name))
    if role == "time" and LIMITS & held:
        return False
    return bool(words & held) or (role == "truncated" and {"time", "limit"} <= held)


def _may_be(role: str, column: Column | None) -> bool:
    """Whether the values of a column allow for a role that its name suggests."""
    if column is None:
        return False
    if role in ("reward", "propensity"):
        return is_number(column)
    if role in ("terminated", "truncated"):
        return ends_of(column) is not None
    if role == "time":
        return _is_time(column) or is_number(column)
    if role == "action":
        return (is_number(column) or vocabulary(column) is not None) and (_different(column) or 2) > 1
    return _codes(column) is not None and not _is_float(column)


def _settle_words(found: Sorted, columns: Mapping[str, Column]) -> None:
    """Where one column, named like an outcome or an end, says in words how a few rows ended, take it for the ends, and make the
    reward of it."""
    reward = found.roles.get("reward")
    if isinstance(reward, str) and reward in columns and not is_number(columns[reward]):
        del found.roles["reward"]
    if {"reward", "terminated"} & set(found.roles):
        return
    named = OUTCOMES | HINTS["terminated"] | HINTS["reward"]
    fitting = {n: words for n, c in columns.items() if named & set(words_of(n)) and (words := _end_words(c))}
    if len(fitting) != 1:
        return
    ((name, words),) = fitting.items()
    good = next((word for word in words if GOOD & set(words_of(word))), words[0])
    found.roles["terminated"], found.ends = name, words
    found.reward = f"{name if name.isidentifier() else f'`{name}`'} == {good!r}"
    found.questions.append(
        f"Does {name!r} say how each episode ended, and is {good!r} what is wanted? The reward is 1 there and 0 elsewhere."
    )


def _end_words(column: Column) -> tuple[str, ...] | None:
    """The words of a text column that is empty in most rows; None for any other column."""
    array = pa.array(column) if isinstance(column, np.ndarray) and column.ndim == 1 else column
    words = vocabulary(array)
    if words is None or not isinstance(array, pa.Array) or 2 * array.null_count <= len(array):
        return None
    return words if len(words) <= MOST_ENDS else None


def _settle_episode(found: Sorted, columns: Mapping[str, Column]) -> None:
    """Decide which column tells episodes apart, or which pair of columns where the same visit stands with several patients."""
    episode, group = found.roles.get("episode"), found.roles.get("group")
    if not isinstance(group, str):
        return
    if not isinstance(episode, str):
        if "episode" in found.roles:
            return
        found.roles["episode"] = group
        del found.roles["group"]
        found.questions.append(f"Is every {group!r} one episode? Nothing else seems to tell episodes apart.")
        return
    inner, outer = _codes(columns.get(episode)), _codes(columns.get(group))
    if inner is None or outer is None:
        return
    pair = inner.astype(np.int64) * (int(outer.max(initial=0)) + 1) + outer
    if len(np.unique(pair)) > len(np.unique(inner)):  # the same visit of several patients
        found.roles["episode"] = (group, episode)
        found.questions.append(
            f"Does a pair of {group!r} and {episode!r} make an episode? The same {episode!r} stands with several {group!r}."
        )


def _settle_pairs(found: Sorted, free: list[str], columns: Mapping[str, Column]) -> list[str]:
    """Take columns that have a partner of the next step, as x and next_x, for observations; gives the columns that remain.

    What else may be observed is then taken for the action, where nothing else is; where something is, partners say nothing.
    """
    pairs = {name: f"next_{name}" for name in free if f"next_{name}" in free and is_number(columns.get(name))}
    rest = [name for name in free if name not in pairs and name not in pairs.values()]
    acted = [name for name in rest if is_number(columns.get(name)) and _why_apart(name, columns.get(name)) is None]
    if not pairs or "next_observation" in found.roles or (acted and "action" in found.roles):
        return free
    found.observed += pairs
    found.roles["next_observation"] = tuple(pairs.values())
    if acted:
        one = len(acted) == 1
        found.roles["action"] = acted[0] if one else tuple(acted)
        verb, these = ("Is", "It alone has") if one else ("Are", "They alone have")
        found.questions.append(
            f"{verb} {listed(map(repr, acted))} what was decided? {these} no column of what came next."
        )
    return [name for name in rest if name not in acted]


def _why_apart(name: str, column: Column | None) -> str | None:
    """Why a column should not be observed; None where it may be."""
    words = set(words_of(name))
    if OUTCOMES & words:
        return "named like an outcome"
    first = words_of(name)[:1]
    if LATER & set(first):
        return "named like what comes next"
    if PROBABILITIES & set(first) and _is_float(column) and _within_one(column):
        return "named like a probability; that of the logged action has the role `propensity`"
    if _is_time(column):
        return "a time"
    if column is None or not (is_number(column) or _is_list(column) or vocabulary(column) is not None):
        return "neither numbers nor few categories"
    different = _different(column)
    if different == 1 and len(column) > 1:
        return "the same in every row"
    if LIMITS & words:
        return "named like a limit"
    parts = words_of(name)
    if (IDENTIFIERS & words or parts[-1:] == ["no"]) and not _is_float(column):
        return "named like an identifier"
    if different == len(column) and len(column) > MOST_CATEGORIES and _rises(column):
        return "a counter of rows"
    return None


def _within_one(column: Column | None) -> bool:
    """Whether all numbers of a column lie in [0, 1]."""
    values = column if isinstance(column, np.ndarray) else np.asarray(column.drop_null() if column is not None else [])
    return bool(np.all((values >= 0) & (values <= 1)))


def _is_list(column: Column) -> bool:
    return column.ndim > 1 if isinstance(column, np.ndarray) else pa.types.is_nested(column.type)


def _is_float(column: Column | None) -> bool:
    if column is None:
        return False
    if isinstance(column, np.ndarray):
        return column.dtype.kind == "f"
    return bool(pa.types.is_floating(column.type))


def _is_time(column: Column | None) -> bool:
    """Whether a column holds dates or times."""
    if column is None:
        return False
    if isinstance(column, np.ndarray):
        return column.dtype.kind in "mM"
    if not pa.types.is_string(column.type):
        return bool(pa.types.is_temporal(column.type))
    known = column.drop_null()
    return len(known) > 0 and bool(pc.all(pc.match_substring_regex(known, DATE)).as_py())


def _rises(column: Column) -> bool:
    """Whether whole numbers rise from row to row."""
    values = np.asarray(column) if isinstance(column, np.ndarray) else column.to_numpy(zero_copy_only=False)
    return values.dtype.kind in "iu" and bool((np.diff(values) > 0).all())


def _different(column: Column | None) -> int | None:
    """How many different values a column of single values has; None for any other."""
    codes = _codes(column)
    return None if codes is None else int(codes.max(initial=-1)) + 1


def _codes(column: Column | None) -> NumpyArray | None:
    """(n,) a number for each different value of a column of single values, a missing one too; None for any other column."""
    if column is None or _is_list(column):
        return None
    array = pa.array(column) if isinstance(column, np.ndarray) else column
    if pa.types.is_dictionary(array.type):
        array = array.cast(pa.string())
    codes: NumpyArray = pc.dictionary_encode(array, null_encoding="encode").indices.to_numpy(zero_copy_only=False)
    return codes


def described(names: Sequence[str], reasons: Mapping[str, str]) -> str:
    """The names of columns, with the reason of each in brackets; alike reasons are named once."""
    by_reason: dict[str, list[str]] = {}
    for name in names:
        by_reason.setdefault(reasons[name], []).append(repr(name))
    return "; ".join(f"{listed(held)} ({reason})" for reason, held in by_reason.items())
