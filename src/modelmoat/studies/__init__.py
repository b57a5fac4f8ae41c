"""Studies: a file that says what to run, records, and verdicts on claims."""

from modelmoat.studies.bench import StudyResult, StudyWatch, estimate, run_study
from modelmoat.studies.check import Cost
from modelmoat.studies.claims import Judgment
from modelmoat.studies.cluster import RayEngine
from modelmoat.studies.engine import Engine
from modelmoat.studies.query import Answer, run_sql
from modelmoat.studies.shelf import VictimShelf
from modelmoat.studies.sites import mirrored
from modelmoat.studies.study import Study, load_study
from modelmoat.studies.table import read_tables
from modelmoat.studies.workers import LocalEngine

__all__ = [
    "Answer",
    "Cost",
    "Engine",
    "Judgment",
    "LocalEngine",
    "RayEngine",
    "Study",
    "StudyResult",
    "StudyWatch",
    "VictimShelf",
    "estimate",
    "load_study",
    "mirrored",
    "read_tables",
    "run_sql",
    "run_study",
]
