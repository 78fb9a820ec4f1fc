"""The shared engine: one function per subcommand, a typed config in, a result out. It never prints.

Each function imports what it needs: `prepare_data` must not wait for torch, which takes seconds to import.
"""

from onehead_cli.engine.prepare import prepare_data
from onehead_cli.engine.train import train_teacher, train_unified
from onehead_cli.engine.use import evaluate, export, predict, profile

__all__ = ["evaluate", "export", "predict", "prepare_data", "profile", "train_teacher", "train_unified"]
