"""Clean logs and their audits, made once a session."""

from __future__ import annotations

import audit_corpus as corpus
import pytest

import stitchrl as st
from stitchrl.auditing.finding import Audit


@pytest.fixture(scope="session")
def clean() -> st.Dataset:
    """The first 300 stays of the embedded log."""
    return st.demo_log().select_episodes(range(300))


@pytest.fixture(scope="session")
def clean_audits() -> dict[str, Audit]:
    """A full audit of each clean log of the corpus."""
    return {name: st.audit(log) for name, log in corpus.clean_logs().items()}


@pytest.fixture(scope="session")
def clean_codes(clean_audits: dict[str, Audit]) -> dict[str, set[str]]:
    """The codes of the findings in each of these audits."""
    return {name: {finding.code for finding in audit.findings} for name, audit in clean_audits.items()}
