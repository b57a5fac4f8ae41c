"""The boundary: everything that answers queries, and the ledger that counts them."""

from modelmoat.victims.answers import Answers, OutputFormat
from modelmoat.victims.clean import CleanAnswers, CleanRows, clean_answers
from modelmoat.victims.journal import Journal
from modelmoat.victims.ledger import Ledger
from modelmoat.victims.memory import BatchMemory
from modelmoat.victims.replay import ReplayPredictor, load_predictor
from modelmoat.victims.traffic import TURN, BusyVictim, in_turns
from modelmoat.victims.victim import QueryTarget, Responder, Victim

__all__ = [
    "TURN",
    "Answers",
    "BatchMemory",
    "BusyVictim",
    "CleanAnswers",
    "CleanRows",
    "Journal",
    "Ledger",
    "OutputFormat",
    "QueryTarget",
    "ReplayPredictor",
    "Responder",
    "Victim",
    "clean_answers",
    "in_turns",
    "load_predictor",
]
