from . import pictures as pictures, plots as plots
from .arviz_export import to_arviz as to_arviz
