"""Find out how stealable a model is, make it hard to steal, serve it safely, prove a theft."""

__version__ = "0.1.0"
