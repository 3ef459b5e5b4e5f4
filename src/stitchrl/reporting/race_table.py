"""A race as text: a table for each round, and what can be said of the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stitchrl.messages import interval_in_words
from stitchrl.reporting.rungs import rung_explained, rung_in_words

__all__ = ["race_in_words", "round_table", "winner_in_words"]

Content = Mapping[str, Any]
FEW_UPDATES = 100
"""A first round with fewer updates than this for each candidate ranks networks that have hardly learned."""


def race_in_words(race: Content) -> str:
    """The plain content of a race (`Race.to_dict`): every round, and the winner."""
    tables = [round_table(one) for one in race["rounds"]]
    return "\n\n".join([*tables, winner_in_words(race)])


def round_table(content: Content) -> str:
    """The plain content of a round (`Round.to_dict`) as a headline and a table, with the reasons that need a sentence below."""
    rows = content["rows"]
    head = ("candidate", "updates", "value on validation", "gain at least", "")
    cells = [head, *(_cells(row) for row in rows)]
    widths = [max(len(line[k]) for line in cells) for k in range(len(head))]
    after = f"the best {content['go_on']} go on" if content["go_on"] else "the final"
    lines = [
        f"round {content['number']} of {content['rounds']}: {_counted(len(rows), 'candidate')}, {content['updates']:,} further "
        f"updates each, {content['spent']:,} of {content['budget']:,} spent; {after}"
    ]
    for line in cells:
        name, updates, value, bound, fate = line
        lines.append(
            f"  {name:<{widths[0]}}  {updates:>{widths[1]}}  {value:<{widths[2]}}  {bound:>{widths[3]}}  {fate}".rstrip()
        )
    lines += _remarks(rows)
    if content["number"] == 1:
        lines += _explained(rows)
    if content["number"] == 1 and content["rounds"] > 1 and 0 < content["updates"] < FEW_UPDATES:
        lines.append(
            f"  {content['updates']} updates are too few to tell candidates apart: raise the budget, or name fewer algorithms."
        )
    return "\n".join(lines)


def winner_in_words(race: Content) -> str:
    """What is known of the winner, what is not, and what was spent."""
    won, judged, episodes = race["winner"], race["judged"], race["episodes"]
    lines = [f"winner: {_titled(won)}, after {won['updates']:,} updates: {_gain(won)}{_of_model(race, won)}."]
    if won["bound"] is not None and won["bound"] <= 0:
        lines.append(
            "No candidate is predicted to be shown better than the log's own policy on the test part: the predicted lower end of "
            "its gain is not above 0. A larger budget, other algorithms or more episodes may change that."
        )
    lucky = (
        f"the winner was chosen for this gain among {judged} candidates, by the same {episodes['validation']:,} episodes, so "
        "that part of it is luck"
        if judged > 1
        else f"it rests on {episodes['validation']:,} episodes"
    )
    lines += [
        f"The gain on validation is optimistic: {lucky}. Only the test part can say what the winner is worth: "
        f"{episodes['test']:,} episodes that nothing in this race has looked at.",
        f"Updates: {race['spent']:,} of {race['budget']:,} spent. The updates of the models that judged the candidates "
        "after each round are not among them.",
    ]
    return "\n".join(lines)


def _explained(rows: Sequence[Content]) -> list[str]:
    """What the words of the table mean, below the first one."""
    lines = [
        "  gain at least: the lower end of the interval of the gain over the log's own policy, as predicted for the test part."
    ]
    rung = next((row for row in rows if rung_in_words(row) is not None), None)
    if rung is not None:
        lines.append(f"  {rung_in_words(rung)}: {rung_explained(rung)}")
    return lines


def _remarks(rows: Sequence[Content]) -> list[str]:
    """The reasons that need a sentence; of several candidates whose checks fail, that of the best."""
    lines = [
        f"  {row['title']}: {row['why']}." for row in rows if row["place"] is None or _is_twin(row) or _passed_over(row)
    ]
    failing = [row for row in rows if row["place"] is not None and not row["healthy"] and not _is_twin(row)]
    if failing:
        others = f" ({len(failing) - 1} more fail; every reason is in the JSON)" if len(failing) > 1 else ""
        lines.append(f"  {failing[0]['title']}: {failing[0]['why']}{others}")
    return [line.replace("..", ".") for line in lines]


def _passed_over(row: Content) -> bool:
    return bool(row["why"].endswith("could not confirm its gain"))


def _is_twin(row: Content) -> bool:
    return bool(row["why"].startswith("the same policy as"))


def _cells(row: Content) -> tuple[str, str, str, str, str]:
    value, bound = "none has an interval", "-"
    if row["place"] is None:
        value = "-"
    elif row["lower"] is not None:
        value = interval_in_words(row["value"], row["lower"], row["upper"], sign=False)
    if row["bound"] is not None:
        bound = f"{row['bound']:+.4f}"
    return _titled(row), f"{row['updates']:,}", value, bound, _fate(row)


def _fate(row: Content) -> str:
    if row["place"] is None:
        return "dropped, not judged"
    if _is_twin(row):
        return "dropped, a twin"
    words = {
        "wins": "wins",
        "loses the final": f"{_ordinal(row['place'])} in the final",
    }.get(row["fate"], f"{row['fate']}, {_ordinal(row['place'])}")
    return words if row["healthy"] else f"{words}, checks fail"


def _titled(row: Content) -> str:
    rung = rung_in_words(row)
    if rung is not None:
        return f"{row['title']}, {rung}"
    return row["title"] + ("" if row["acts"] in ("", "as trained") else f", {row['acts']}")


def _gain(row: Content) -> str:
    if row["gain_lower"] is None:
        return "no estimate of its gain has an interval"
    gain = interval_in_words(row["gain"], row["gain_lower"], row["gain_upper"])
    return f"gain on validation {gain}, with a predicted lower end of {row['bound']:+.4f} on test"


def _of_model(race: Content, row: Content) -> str:
    return ", not counting the error of the model" if race["continuous"] and row["gain_lower"] is not None else ""


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
