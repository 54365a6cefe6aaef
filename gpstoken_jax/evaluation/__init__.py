"""What eval.py measures and writes.

A run is a grid of cells (`cells.py`): a checkpoint, a data set, a size and a number of tokens, or a
folder of images beside their references. A cell is planned without its weights, then every image of
it is reconstructed and measured once (`methods.py`, `evaluator.py`, `measurement.py`), and what
came out is written (`results.py`, `pages.py`). `run.py` goes through all cells, past those that are
there already and those that fail; `summary.py` brings them together.
"""
